"""The command line: what it prints, what it writes, and how it fails."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest import mock

import forked
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from test_artifact import forge
from test_results import result, tiny

from ddhub import models, teachers
from ddhub.artifact import bundled, results
from ddhub.artifact.folder import Artifact
from ddhub.artifact.manifest import MANIFEST, PARQUET, PREVIEW, README, RESULTS, TENSORS, seal_text
from ddhub.cards import card
from ddhub.cli import app
from ddhub.protocols.named import protocol, protocols
from ddhub.protocols.protocol import Protocol
from ddhub.sources import source as sources

INFER, RANDOM = "tiny-infer-ipc2", "tiny-random-ipc2"
STUDENT = ("--model", "convnet3-w4", "--epochs", "1", "--device", "cpu", "--precision", "fp32")


def write(folder: Path, *, compensated: bool = False, **changes: Any) -> Artifact:
    """A small artifact of the first cifar10-mini images of each class."""
    source = sources.open_source("cifar10-mini")
    per_class = 1 if compensated else 2
    rows = torch.cat([(source.labels == k).nonzero().flatten()[:per_class] for k in range(10)])
    tensors = {}
    if compensated:
        one = torch.ones(1, 3, 32, 32, dtype=torch.int8)
        tensors = {
            "decoder.compensators": torch.stack([0 * one, 127 * one]),
            "decoder.scale": torch.full((2, 1), 1 / 127),
        }
    manifest = tiny(
        name=folder.name,
        classes=source.classes,
        image_size=(3, 32, 32),
        mean=source.mean,
        std=source.std,
        decoder={"kind": "compensate" if compensated else "identity"},
        labels={"kind": "hard"},
        tensors={},
        content="",
        files={},
        **{"dataset": "cifar10-mini", "method": "infer" if compensated else "random-real", **changes},
    )
    return Artifact.write(
        folder,
        manifest=manifest,
        images=source.images[rows],
        image_labels=source.labels[rows],
        tensors=tensors,
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    write(folder / INFER, compensated=True)
    write(folder / RANDOM)
    return folder


@pytest.fixture
def shelf(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two bundled artifacts of one's own, and a current folder that is empty."""
    copy, here = tmp_path / "bundled", tmp_path / "here"
    shutil.copytree(bundle, copy)
    here.mkdir()
    monkeypatch.setattr(bundled, "BUNDLED", copy)
    monkeypatch.setattr("ddhub.cli.program.keep_freed_memory", lambda: None)
    monkeypatch.chdir(here)
    return copy


def run(*words: object) -> str:
    """Standard output of a command that must succeed."""
    done = CliRunner().invoke(app.cli, [*map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def fail(*words: object) -> tuple[int, str]:
    """Exit code and the one error line of a command that must fail."""
    with (
        mock.patch.object(sys, "argv", ["ddhub", *map(str, words)]),
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
        pytest.raises(SystemExit) as stop,
    ):
        app.main()
    return exit_of(stop.value.code, out.getvalue(), err.getvalue())


def exit_of(code: Any, out: str, err: str) -> tuple[int, str]:
    lines = err.splitlines()
    assert out == "" and len(lines) == 1 and lines[0].startswith("error: "), (out, err)
    return code, lines[0]


def process(*words: object, check: str = "pass", new: bool = True) -> subprocess.CompletedProcess[str]:
    """A command as a process of its own, with the bundle of this test; then `check`, a statement.

    One that is not `new` has modules that others imported.
    """
    code = (
        "import sys, pathlib; from ddhub.artifact import bundled; from ddhub.cli import app\n"
        "bundled.BUNDLED = pathlib.Path(sys.argv.pop(1))\n"
        f"try: app.main()\nfinally: {check}"
    )
    if not new:
        return forked.run("-c", code, bundled.BUNDLED, *words)
    command = [sys.executable, "-c", code, str(bundled.BUNDLED), *map(str, words)]
    env = {**os.environ, "PYTHONPATH": str(Path(app.__file__).parents[2])}
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)


def record(folder: Path, *accuracies: float, **changes: Any) -> None:
    artifact = Artifact.open(folder, verify=False)
    for seed, accuracy in enumerate(accuracies):
        artifact.add_result(asdict(result(artifact.manifest, seed, accuracy, **changes)))


BITS = 8 / 10  # a class, of every stored byte of ten classes


def stored(folder: Path) -> int:
    """Bytes of the files that hold images, classes and tensors."""
    return sum((folder / name).stat().st_size for name in (PARQUET, TENSORS) if (folder / name).exists())


NOTE = "A rank compares one protocol, test set and student; an accuracy without a rank is the best under another."
NEXT = "Next: ddhub compare NAME NAME shows accuracies side by side; ddhub info NAME shows all about an artifact."


def cells(line: str) -> list[str]:
    """The cells of a line of a table."""
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_list_without_results(shelf: Path) -> None:
    lines = run("list").splitlines()
    assert lines[0].split() == (
        ["rank", "name", "method", "dataset", "ipc", "stored", "bytes", "accuracy", "in", "%", "student", "protocol"]
    )
    infer, random = (f"{stored(shelf / name):,}" for name in (INFER, RANDOM))
    assert lines[1].split() == [INFER, "infer", "cifar10-mini", "2", infer, "no", "result"]
    assert lines[2].split() == [
        RANDOM,
        "random-real",
        "(baseline)",
        "cifar10-mini",
        "2",
        random,
        "no",
        "result",
    ]
    assert lines[3:] == ["", NOTE, NEXT]


def test_list_is_best_first_for_each_size(shelf: Path) -> None:
    write(shelf / "tiny-udd-ipc2", method="udd")
    write(shelf / "tiny-edf-ipc2", method="edf")
    write(shelf / "tiny-edf-ipc1", method="edf", ipc=1)
    record(shelf / RANDOM, 30.0)
    record(shelf / INFER, 40.0, 41.0, 43.5)
    record(shelf / INFER, 70.0, model="resnet18")
    record(shelf / "tiny-udd-ipc2", 50.0, 52.0)
    record(shelf / "tiny-edf-ipc2", 90.0, plan=protocol("rded"))
    first, second, end = run("list").split("\n\n")
    row = cells(first.splitlines()[1])
    assert [*row[:4], *row[5:]] == ["tiny-edf-ipc1", "edf", "cifar10-mini", "1", "no result"]
    rows = [cells(line) for line in second.splitlines()]
    shared = ["convnet3", "infer-dynamic"]
    assert [[*row[:2], *row[-3:]] for row in rows[:3]] == [
        ["1", "tiny-udd-ipc2", "51.00 ± 1.41 (n = 2)", *shared],
        ["2", INFER, "41.50 ± 1.80 (n = 3)", *shared],
        ["3", RANDOM, "30.00 (n = 1)", *shared],
    ]
    assert [rows[3][0], *rows[3][-3:]] == ["tiny-edf-ipc2", "90.00 (n = 1)", "convnet3", "rded"]
    assert end.splitlines() == [NOTE, NEXT]


def test_list_all_adds_variants(shelf: Path) -> None:
    variant = f"{INFER}-no-labels"
    write(shelf / variant, method="infer")
    write(shelf / f"{RANDOM}-soft")  # a baseline is always listed
    record(shelf / variant, 40.0)
    text = run("list")
    assert variant not in text and text.count("(baseline)") == 2
    assert text.splitlines()[-2:] == ["1 variant: ddhub list --all", NEXT]
    text = run("list", "--all")
    (line,) = [line for line in text.splitlines() if variant in line]
    assert line.split()[:3] == [variant, "infer", "(variant)"] and "40.00 (n = 1)" in line
    assert text.count("(variant)") == 1 and "list --all" not in text
    original = {x["name"]: x["variant_of"] for x in json.loads(run("list", "--json"))}
    assert original == {INFER: None, variant: INFER, RANDOM: None, f"{RANDOM}-soft": None}


def without_data(shelf: Path, name: str) -> Path:
    """A bundled artifact of which manifest and results alone are kept."""
    folder = write(shelf / name, method="infer").folder
    record(folder, 35.0)
    for path in (PARQUET, PREVIEW):
        (folder / path).unlink()
    (folder / PARQUET).parent.rmdir()
    return folder


def test_what_has_no_data_is_listed_with_all_and_shown_but_not_loaded(shelf: Path) -> None:
    name = "tiny-udd-ipc2"  # no variant of what is here: it is the data that count
    without_data(shelf, name)
    text = run("list")
    assert name not in text and text.splitlines()[-2].endswith("ddhub list --all")
    (line,) = [line for line in run("list", "--all").splitlines() if name in line]
    assert "35.00 (n = 1)" in line and "(variant)" not in line
    assert name in [x["name"] for x in json.loads(run("list", "--json"))]
    assert "35.00" in run("info", name) and "35.00" in run("compare", name)
    assert name in run("cite", name) and run("card", name).endswith("README.md\n")
    for words in (["train", name], ["verify", name], ["preview", name], ["export", name, "--to", "npz", "x.npz"]):
        code, line = fail(*words)
        assert code == 1 and line.startswith(f"error: {name}: its data are not kept here, only its results; make it")
        assert line.endswith(f"by the command on its card, {shelf / name / README}")


def test_list_as_json(shelf: Path) -> None:
    record(shelf / INFER, 40.0, 42.0)
    infer, random = json.loads(run("list", "--json"))
    assert infer["kind"] == random["kind"] == "artifact"
    assert (infer["name"], infer["bytes"], infer["bits_per_class"]) == (
        INFER,
        stored(shelf / INFER),
        BITS * stored(shelf / INFER),
    )
    assert [(x["mean"], x["n"], x["model"]) for x in infer["results"]] == [(41.0, 2, "convnet3")]
    assert infer["results"][0]["sd"] == pytest.approx(2**0.5)
    assert (infer["encoding"], infer["label_bits"]) == ("png", None) and "PNG, lossless" in infer["stored_as"]
    assert random["results"] == [] and random["variant_of"] is None


def test_list_and_help_do_not_import_torch(shelf: Path) -> None:
    record(shelf / INFER, 40.0, 42.0)
    check = "assert not {'torch', 'numpy', 'datasets', 'pyarrow', 'matplotlib'} & sys.modules.keys()"
    for words in (
        ["list"],
        ["info", INFER, "--json"],
        ["card", INFER],
        ["card", "--all"],
        ["list", "--all"],
        ["compare", INFER],
        ["compare"],
        ["compare", "--frontier"],
        ["cite", INFER],
        ["--help"],
    ):
        done = process(*words, check=check)
        assert (done.returncode, done.stderr) == (0, ""), (words, done.stderr)
        assert done.stdout


def test_info(shelf: Path) -> None:
    record(shelf / INFER, 40.0)
    text = run("info", INFER)
    manifest = Artifact.open(shelf / INFER).manifest
    digest, content = manifest.digest, manifest.content
    for line in (
        f"digest          {digest}",
        "classes         10: airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck",
        "image_size      3 x 32 x 32",
        "encoding        png",
        "label_bits      none",
        "stored_as       images as PNG, lossless, one picture an image; labels as class numbers",
        "decoder         kind compensate",
        "recipe          path recipes/infer.py, commit abc, preset tiny-ipc2-cpu, seed 0",
        "teachers        accuracy 71.234, epochs 4, model convnet3-bn",
        "deviations      Scaled down: teacher_epochs 4 instead of 200",
        f"bytes           {stored(shelf / INFER)}",
        f"bits_per_class  {BITS * stored(shelf / INFER)}",
        f"content         {content}",
    ):
        assert line in text.splitlines()
    assert "results         convnet3: 40.00 % (n = 1) on Tiny (JPEG copy), 10,000 test images, protocol inf" in text
    facts = json.loads(run("info", shelf / INFER, "--json"))
    assert facts["raw_bytes"]["decoder.compensators"] == 6144
    assert (facts["digest"], facts["content"]) == (digest, content) and len(content) == 64
    # 10 images and labels, 2 compensators and their scales
    assert sum(facts["raw_bytes"].values()) == 30730 + 6144 + 8 and facts["bytes"] == stored(shelf / INFER)
    assert facts["protocol"]["augment"]["mix"] == "mixup"
    assert facts["results"][0]["mean"] == 40.0


def test_control_characters_never_reach_the_terminal(shelf: Path, tmp_path: Path) -> None:
    folder = write(tmp_path / "odd", deviations=["red \x1b[31m\x9b1m\nspoofed  line"]).folder
    text = run("info", folder)
    assert "deviations      red [31m1m spoofed  line" in text.splitlines()
    assert "\x1b" not in run("info", folder, "--json")


def test_verify(shelf: Path, tmp_path: Path) -> None:
    record(shelf / INFER, 40.0)
    run("card", INFER)
    m = Artifact.open(shelf / INFER).manifest
    first, second = run("verify", INFER, RANDOM).splitlines()
    assert first == f"{INFER}: ok, 6 files, digest {m.digest}, content {m.content}"
    assert second.startswith(f"{RANDOM}: ok, 3 files, digest ")
    (report,) = json.loads(run("verify", INFER, "--json"))
    assert report == {"name": INFER, "ok": True, "files": 6, "digest": m.digest, "content": m.content}


def test_verify_finds_a_stale_card(shelf: Path) -> None:
    run("card", INFER)
    record(shelf / INFER, 40.0)
    code, line = fail("verify", INFER)
    assert code == 1 and line.endswith(f"run ddhub card {INFER}")
    run("card", INFER)
    run("verify", INFER)
    # a sealed text that is not the card
    (shelf / INFER / README).write_text(seal_text("# Better than it is\n"))
    assert fail("verify", INFER)[0] == 1
    # the seal of a text that was changed
    (shelf / INFER / README).write_text("# Better than it is\n")
    code, line = fail("verify", INFER)
    assert code == 1 and "seal" in line


def test_verify_goes_on_after_a_damaged_artifact(shelf: Path) -> None:
    flip(shelf / INFER / PARQUET)
    done = CliRunner().invoke(app.cli, ["verify", INFER, RANDOM])
    assert done.exit_code == 1
    assert done.stdout.startswith(f"{RANDOM}: ok")
    assert done.stderr.startswith("error: ") and PARQUET in done.stderr
    done = CliRunner().invoke(app.cli, ["verify", INFER, RANDOM, "--json"])
    assert [report["ok"] for report in json.loads(done.stdout)] == [False, True]
    assert done.exit_code == 1


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", [PARQUET, TENSORS, PREVIEW, MANIFEST, RESULTS])
def test_a_flipped_byte_in_any_file(shelf: Path, name: str) -> None:
    record(shelf / INFER, 40.0)
    flip(shelf / INFER / name)
    code, line = fail("verify", INFER)
    assert code == 1 and name in line


def test_preview_copies_the_stored_grid(shelf: Path) -> None:
    assert run("preview", INFER) == f"{INFER}.png\n"
    assert Path(f"{INFER}.png").read_bytes() == (shelf / INFER / PREVIEW).read_bytes()
    assert run("preview", RANDOM, "--to", "a/b.png") == "a/b.png\n"
    assert Path("a/b.png").exists()


def test_preview_of_rebuilt_images_shows_natural_and_compensated_side_by_side(shelf: Path) -> None:
    run("preview", INFER, "--decoded")
    grid = Image.open(f"{INFER}-decoded.png").convert("RGB")
    assert grid.size == (3 * 66 + 2, 10 * 66 + 2)  # natural and two compensators; ten classes, each x 2
    stored = Image.open(shelf / INFER / PREVIEW).convert("RGB").crop((2, 2, 66, 66))
    cells = [grid.crop((2 + 66 * x, 2, 66 + 66 * x, 66)) for x in range(3)]
    assert cells[0].tobytes() == stored.tobytes()
    assert cells[1].tobytes() == stored.tobytes()  # its compensator is 0
    assert set(cells[2].tobytes()) == {255}  # + 127 · 1/127, clipped


def test_train_prints_every_accuracy_and_their_mean(shelf: Path) -> None:
    lines = run("train", INFER, RANDOM, "--seeds", 2, *STUDENT).splitlines()
    assert len(lines) == 4 + 3
    assert lines[0].startswith(f"{INFER}, convnet3-w4, seed 0: ")
    numbers = [float(line.split(": ")[1].split(" %")[0]) for line in lines[:2]]
    mean, sd = sum(numbers) / 2, abs(numbers[0] - numbers[1]) / 2**0.5
    assert lines[4].startswith("last epoch, protocol infer-dynamic+epochs=1 (")
    assert lines[5].startswith(f"{INFER}, convnet3-w4: {mean:.2f} ± {sd:.2f} % (n = 2) on CIFAR-10 mini")
    assert lines[6].startswith(f"{RANDOM}, ")
    assert not (shelf / INFER / RESULTS).exists()


def test_train_records_and_does_not_repeat(shelf: Path) -> None:
    out = json.loads(run("train", INFER, "--record", "--json", *STUDENT))
    (first,) = results.read(shelf / INFER).results
    assert out["results"] == [asdict(first)]
    assert (out["means"][0]["n"], out["means"][0]["sd"]) == (1, None)
    text = run("train", INFER, "--record", "--seeds", 2, *STUDENT)
    assert f"seed 0: {first.accuracy:.2f} % (recorded before, not trained again)" in text
    assert text.count("trained again") == 1
    assert [x.seed for x in results.read(shelf / INFER).results] == [0, 1]
    # without --record, and for another model or protocol, it is trained
    assert "trained again" not in run("train", INFER, *STUDENT)
    assert "trained again" not in run("train", INFER, "--record", *STUDENT, "--model", "convnet3-w2")
    assert "trained again" not in run("train", INFER, "--record", *STUDENT, "--epochs", 2)
    assert len(results.read(shelf / INFER).results) == 4


def test_train_under_the_first_protocol_or_a_named_one(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = {**tiny().protocol, "name": "mine", "epochs": 1, "lr": 0.5}
    write(shelf / "other", protocol=other)
    words = ("--model", "convnet3-w2", "--json")
    out = json.loads(run("train", "other", RANDOM, *words))
    assert {x["protocol"] for x in out["results"]} == {"mine"}
    out = json.loads(run("train", "other", "--protocol", "squeeze", "--epochs", 1, *words))
    assert {x["protocol"] for x in out["results"]} == {"squeeze+epochs=1"}


def test_train_names_what_was_changed(shelf: Path) -> None:
    changed = protocol("infer-static", epochs=1, batch_size=7)
    words = ("--model", "convnet3-w2", "--batch-size", 7, "--json")
    out = json.loads(run("train", RANDOM, *words, "--protocol", "infer-static", "--epochs", 1))
    assert {(x["protocol"], x["protocol_digest"]) for x in out["results"]} == {(changed.name, changed.digest)}
    assert out["results"][0]["steps"] == 3  # 20 images
    # of the artifact's own protocol too; what is as it was has no part in the name
    out = json.loads(run("train", RANDOM, *words, "--epochs", 1))
    assert out["results"][0]["protocol"] == "infer-dynamic+epochs=1+batch_size=7"
    base = protocol("infer-static")
    out = json.loads(run("train", RANDOM, *words[:3], base.batch_size, *words[4:], "--epochs", 1))
    assert out["results"][0]["protocol"] == "infer-dynamic+epochs=1"


def test_train_help_lists_the_protocols() -> None:
    text = "".join(run("train", "--help").split())
    assert all(name in text for name in protocols())


def test_train_with_the_baseline(shelf: Path, tmp_path: Path) -> None:
    words = ("--model", "convnet3-w2", "--epochs", 1, "--device", "cpu", "--json")
    out = json.loads(run("train", INFER, "--baseline", *words))
    assert [x["artifact"] for x in out["means"]] == [INFER, RANDOM]
    # what is named already is trained once; a random selection has no baseline of its own
    assert [x["artifact"] for x in json.loads(run("train", RANDOM, INFER, "--baseline", *words))["means"]] == [
        RANDOM,
        INFER,
    ]
    assert len(json.loads(run("train", RANDOM, "--baseline", *words))["means"]) == 1
    # one that lies beside the artifact
    shutil.copytree(shelf / INFER, tmp_path / "own" / INFER)
    shutil.move(shelf / RANDOM, tmp_path / "own" / RANDOM)
    (tmp_path / "own" / "damaged").mkdir()
    (tmp_path / "own" / "damaged" / MANIFEST).write_text("{")
    run("train", tmp_path / "own" / INFER, "--baseline", "--record", *words)
    assert len(results.read(tmp_path / "own" / RANDOM).results) == 1
    code, line = fail("train", INFER, "--baseline")
    assert code == 2 and f"{INFER} has no random selection of 2 images per class" in line
    assert line.endswith(f"random-real {shelf}/cifar10-mini-random-ipc2 --dataset cifar10-mini --ipc 2")
    # of another ipc
    write(shelf / "more", ipc=3)
    assert fail("train", INFER, "--baseline")[0] == 2


def teacher(folder: Path, seed: int = 0) -> str:
    """A small teacher of cifar10-mini, untrained; returns its digest."""
    source = sources.open_source("cifar10-mini")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = models.build("convnet3-bn-w2", classes=10)
    return teachers.write(
        folder,
        net,
        model="convnet3-bn-w2",
        dataset="cifar10-mini",
        classes=source.classes,
        image_size=(3, 32, 32),
        mean=source.mean,
        std=source.std,
        accuracy=12.5,
        test={"name": "cifar10-mini", "label": "CIFAR-10 mini", "images": 1000, "fingerprint": "00"},
        protocol=protocol("squeeze").to_json(),
        epochs=3,
        seed=seed,
        source=tiny().source,
        license="mit",
        run={"device": "cpu"},
    )


def test_train_with_teachers(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teachers, "_identified", {})
    digests = [teacher(folder, seed) for seed, folder in enumerate((shelf / "one", tmp_path / "two"))]
    words = ("--model", "convnet3-w2", "--epochs", 1, "--device", "cpu", "--precision", "fp32", "--json")
    plain, own, other = (
        json.loads(run("train", RANDOM, *words, *more))["results"][0]
        for more in ((), ("--teacher", "one"), ("--teacher", "one", "--teacher", tmp_path / "two"))
    )
    ids = [f"one@{digests[0][:12]}", f"two@{digests[1][:12]}"]
    base = Protocol.from_json(results.read(shelf / RANDOM).manifest.protocol)
    for found, names in ((own, ids[:1]), (other, ids)):
        plan = replace(base, epochs=1, teachers=tuple(names))
        assert found["protocol_digest"] == plan.digest
        assert found["protocol"] == f"{base.name}+epochs=1+teachers=" + ",".join(names)
    assert len({x["protocol_digest"] for x in (plain, own, other)}) == 3
    code, line = fail("train", RANDOM, "--teacher", "onne")
    assert code == 2 and "did you mean 'one'" in line


def test_train_shares_seeds_over_ranks(shelf: Path, tmp_path: Path) -> None:
    """Two processes print and record what one does, in the same order."""
    copy = shutil.copytree(shelf / RANDOM, tmp_path / "copy")
    words = [*STUDENT, "--seeds", "3", "--record", "--json"]
    alone = json.loads(run("train", shelf / RANDOM, *words))
    done = forked.together(forked.ranks(2, "-m", "ddhub", "train", copy, *words))
    assert done.returncode == 0, done.stderr
    shared = json.loads(done.stdout)
    for found in (shared, {"results": [asdict(x) for x in results.read(copy).results]}):
        pairs = zip(found["results"], alone["results"], strict=True)
        assert all({**own, "seconds": 0} == {**other, "seconds": 0} for own, other in pairs)
    lines = [line for line in done.stderr.splitlines() if line.startswith(RANDOM)]
    assert [line.split(":")[0] for line in lines] == [f"{RANDOM}, convnet3-w4, seed {seed}" for seed in range(3)]


def test_compare_is_one_table(shelf: Path) -> None:
    record(shelf / INFER, 40.0, 41.0, 43.5)
    record(shelf / INFER, 50.0, model="resnet18")
    record(shelf / RANDOM, 30.0, 31.0)
    title, *table = run("compare", INFER, RANDOM).splitlines()
    digest = protocol("infer-dynamic").digest
    assert (
        title == f"accuracy in %, last epoch, protocol infer-dynamic ({digest}), Tiny (JPEG copy), 10,000 test images"
    )
    assert [line.split("  ")[0] for line in table] == ["name", INFER, RANDOM]
    assert table[0].split()[-2:] == ["convnet3", "resnet18"]
    assert table[1].endswith("41.50 ± 1.80 (n = 3)  50.00 (n = 1)") and table[2].endswith("30.50 ± 0.71 (n = 2)")
    assert "resnet18" not in run("compare", INFER, RANDOM, "--model", "convnet3")
    out = json.loads(run("compare", RANDOM, INFER, "--json"))
    assert out["protocol_digest"] == digest and out["test_images"] == 10000
    first, second = out["artifacts"]
    assert (first["name"], first["bytes"], first["bits_per_class"]) == (
        RANDOM,
        stored(shelf / RANDOM),
        BITS * stored(shelf / RANDOM),
    )
    assert first["students"] == {"convnet3": {"mean": 30.5, "sd": pytest.approx(0.5**0.5), "n": 2}}
    assert second["students"].keys() == {"convnet3", "resnet18"}


def test_compare_never_mixes_protocols_or_test_sets(shelf: Path) -> None:
    for name in (INFER, RANDOM):
        record(shelf / name, 40.0)
        record(shelf / name, 50.0, plan=protocol("rded"))
        record(shelf / name, 60.0, test_fingerprint="cafe" * 16, test_name="other")
    code, line = fail("compare", INFER, RANDOM)
    digest = protocol("rded").digest
    assert (
        code == 2 and f"rded ({digest}) on Tiny (JPEG copy) (beefbeefbeef)" in line and "--protocol or --test" in line
    )
    for key in ("rded", digest):
        assert "50.00" in run("compare", INFER, RANDOM, "--protocol", key)
    assert fail("compare", INFER, RANDOM, "--protocol", "infer-dynamic")[0] == 2
    for key in ("other", "cafe"):
        text = run("compare", INFER, RANDOM, "--protocol", "infer-dynamic", "--test", key)
        assert "60.00" in text and "40.00" not in text
    code, line = fail("compare", INFER, RANDOM, "--protocol", "rdde")
    assert code == 2 and "did you mean 'rded'" in line


def test_compare_without_names_shows_every_table(shelf: Path) -> None:
    code, line = fail("compare")
    assert code == 2 and "no recorded result" in line
    record(shelf / INFER, 40.0, 41.0, 43.5)
    record(shelf / INFER, 50.0, model="resnet18")
    record(shelf / RANDOM, 30.0, test_fingerprint="cafe")
    first, second = run("compare").split("\n\n")
    assert "last epoch, protocol infer-dynamic" in first and "10,000 test images" in first
    assert first.splitlines()[1].split()[-2:] == ["convnet3", "resnet18"]
    assert cells(first.splitlines()[2])[-2:] == ["41.50 ± 1.80 (n = 3)", "50.00 (n = 1)"]
    assert RANDOM not in first and RANDOM in second and INFER not in second
    tables = json.loads(run("compare", "--json"))
    assert [[x["name"] for x in table["artifacts"]] for table in tables] == [[INFER], [RANDOM]]
    assert run("compare", "--test", "cafe") == second
    assert "resnet18" not in run("compare", "--model", "convnet3")
    code, line = fail("compare", "--plot", "a.png")
    assert code == 2 and "one table" in line and not Path("a.png").exists()


def test_compare_without_names_by_data_set_and_size(shelf: Path) -> None:
    write(shelf / "other", ipc=1, method="edf")
    for name in (INFER, RANDOM, "other"):
        record(shelf / name, 40.0)
    assert [line.split()[0] for line in run("compare", "--ipc", 1).splitlines()[1:]] == ["name", "other"]
    assert "other" in run("compare", "--dataset", "cifar10-mini")
    lines = run("compare", "--dataset", "cifar10-mini", "--ipc", 2).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["name", INFER, RANDOM]
    assert fail("compare", "--ipc", 3)[0] == 2
    code, line = fail("compare", "--dataset", "cifar10-mni")
    assert code == 2 and "did you mean 'cifar10-mini'" in line
    code, line = fail("compare", INFER, "--ipc", 2)
    assert code == 2 and "without a NAME" in line


def test_compare_says_how_to_record_what_is_missing(shelf: Path) -> None:
    code, line = fail("compare", INFER, RANDOM)
    end = "--record --data ROOT"
    words = f"{INFER} {RANDOM} --model convnet3 --seeds 3 {end}"
    assert code == 2 and line == f"error: no result of {INFER}, {RANDOM}; record it: ddhub train {words}"
    record(shelf / RANDOM, 30.0, 31.0)
    # the one with results comes first, as its protocol is that of all
    code, line = fail("compare", INFER, RANDOM)
    assert f"no result of {INFER} with convnet3 under protocol infer-dynamic (" in line
    command = f"{RANDOM} {INFER} --protocol infer-dynamic --model convnet3 --seeds 2 --test cifar10-mini {end}"
    assert line.endswith(f"record it: ddhub train {command}")
    code, line = fail("compare", INFER, RANDOM, "--protocol", "rded", "--model", "resnet18", "--test", "cifar10")
    words = f"{INFER} {RANDOM} --protocol rded --model resnet18 --seeds 3 --test cifar10 {end}"
    assert f"no result of {INFER}, {RANDOM} with resnet18 under protocol rded on cifar10; " in line
    assert line.endswith(f"record it: ddhub train {words}")


def test_the_command_that_compare_asks_for_gives_the_table(shelf: Path) -> None:
    """Also under the artifact's own protocol, changed: no name leads to it."""
    own = {**tiny().protocol, "name": "mine", "epochs": 2, "lr": 0.05}
    write(shelf / "other", protocol=own)
    words = ("--model", "convnet3-w2", "--device", "cpu", "--precision", "fp32", "--record")
    run("train", "other", *words)
    line = fail("compare", RANDOM, "other")[1]
    command = shlex.split(line.split("record it: ")[1])
    assert command[:4] == ["ddhub", "train", "other", RANDOM]
    run(*command[1:-2], "--device", "cpu", "--precision", "fp32")
    assert "protocol mine (" in run("compare", RANDOM, "other")


def test_compare_draws(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    for name in (INFER, RANDOM):
        record(shelf / name, 40.0, 41.0)
        record(shelf / name, 50.0, model="$resnet18")
    lines = run("compare", INFER, RANDOM, "--plot", "a/b.png").splitlines()
    assert lines[0] == "a/b.png" and lines[1].startswith("accuracy in %")
    with Image.open("a/b.png") as image:
        image.load()
        assert image.width > 500 and len(image.convert("L").getcolors()) > 10
    first = Path("a/b.png").read_bytes()
    run("compare", INFER, RANDOM, "--plot", "a/b.png", "--json")
    assert Path("a/b.png").read_bytes() == first
    assert fail("compare", INFER, RANDOM, "--plot", "a.jpg")[0] == 2
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, line = fail("compare", INFER, RANDOM, "--plot", "c.png")
    assert code == 2 and "pip install 'ddhub[plot]'" in line and not Path("c.png").exists()


def test_export(shelf: Path) -> None:
    text = run("export", RANDOM, "--to", "npz", "out.npz")
    assert text == "out.npz: 20 items with class numbers, it stores no logits of plain items\n"
    assert run("export", INFER, "--to", "imagefolder", "out").startswith("out: 30 items")
    out = json.loads(run("export", RANDOM, "--to", "pt", "--json", "tensors"))
    assert out == {"path": "tensors", "items": 20, "logits": False, "change": 0.0}
    code, line = fail("export", RANDOM, "--to", "npz", "out.npz")
    assert code == 2 and "out.npz exists already" in line
    assert fail("export", RANDOM, "--to", "zip", "new")[0] == 2


def test_export_knows_its_formats() -> None:
    from ddhub.convert.export import FORMATS

    (choice,) = [x.type for x in app.cli.commands["export"].params if x.name == "to"]
    assert tuple(choice.choices) == FORMATS  # written twice, so that --help does not import torch


def test_cite(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = run("cite", INFER, RANDOM)
    keys = [line.split("{")[1].rstrip(",") for line in text.splitlines() if line.startswith("@")]
    assert keys == [INFER, "tiny", "krizhevsky2009cifar", RANDOM, "ddhub"]  # each once, in order
    assert Artifact.open(shelf / INFER).manifest.digest in text
    assert text.count("{") == text.count("}")
    teacher(tmp_path / "one")
    text = run("cite", tmp_path / "one")
    assert "krizhevsky2009cifar" in text and "@software{ddhub" in text
    folder = write(tmp_path / "mine", citation="a text\n\x1b[31m@misc{x,\n}").folder
    assert "\x1b" not in run("cite", folder)


def test_every_known_data_set_can_be_cited() -> None:
    from ddhub.cards.citations import of_dataset
    from ddhub.sources.known import KNOWN

    assert [name for name in KNOWN if not of_dataset(name).startswith("@")] == []
    assert of_dataset("folder:images") == ""


def test_teachers_are_listed_and_checked(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = teacher(shelf / "one")
    assert run("list").splitlines()[-2] == "1 teacher: ddhub list --all"
    lines = run("list", "--all").split("\n\n")[-2].splitlines()
    assert lines[1].split() == ["one", "convnet3-bn-w2", "cifar10-mini", "3", "12.50"]
    (found,) = [x for x in json.loads(run("list", "--json")) if x["kind"] == "teacher"]
    assert (found["name"], found["digest"], found["accuracy"]) == ("one", digest, 12.5)
    for name in ("one", shelf / "one"):
        text = run("info", name).splitlines()
        assert f"digest          {digest}" in text and "image_size      3 x 32 x 32" in text
        assert "mean            0.4914 0.4822 0.4465" in text
        assert json.loads(run("info", name, "--json"))["model"] == "convnet3-bn-w2"
        assert run("verify", name, RANDOM).splitlines()[0] == f"{name}: ok, 2 files, digest {digest}"
    flip(shelf / "one" / "weights.safetensors")
    code, line = fail("verify", "one")
    assert code == 1 and "weights.safetensors" in line


def completed(*words: str) -> list[str]:
    """What the shell would offer for the last word."""
    from click.shell_completion import BashComplete

    *args, incomplete = words
    found = BashComplete(app.cli, {}, "ddhub", "_DDHUB_COMPLETE").get_completions(args, incomplete)
    return [item.value if item.type == "plain" else f"({item.type})" for item in found]


def test_completion_of_names(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(shelf / INFER, Path("own"))
    teacher(Path("nets") / "one")
    assert completed("info", "") == ["own", INFER, RANDOM]
    assert completed("train", INFER, "tiny-r") == [RANDOM]
    assert completed("info", "./o") == ["./own"]
    assert completed("verify", "nets/") == ["nets/one"]
    assert completed("verify", "ne") == ["(dir)"]  # the shell's own completion of folders
    assert completed("verify", "gone/x") == ["(dir)"]
    assert completed("train", INFER, "--teacher", "nets/o") == ["nets/one"]
    assert completed("train", INFER, "--protocol", "rded") == ["rded", "rded-f2"]
    assert completed("train", INFER, "--model", "resnet") == ["resnet18"]
    assert completed("compare", INFER, "--test", "cifar10") == ["cifar10", "cifar10-mini", "cifar100"]
    assert completed("export", INFER, "--to", "n") == ["npz"]
    assert completed("comp") == ["compare", "completion"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shelf: Path, shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    script = run("completion", shell)
    assert f"_DDHUB_COMPLETE={shell}_complete" in script
    # the process that the script starts
    monkeypatch.setenv("_DDHUB_COMPLETE", f"{shell}_complete")
    monkeypatch.setenv("COMP_WORDS", "ddhub info tiny-r")
    monkeypatch.setenv("COMP_CWORD", "tiny-r" if shell == "fish" else "2")
    done = process(check="assert 'torch' not in sys.modules")
    assert (done.returncode, done.stderr) == (0, "") and RANDOM in done.stdout


def rendered(*folders: Path) -> dict[Path, str]:
    """The cards that belong into folders of artifacts, rendered beside one another."""
    entries = {folder: results.read(folder) for folder in folders}
    return {folder: seal_text(card.render(entry, entries.values())) for folder, entry in entries.items()}


def test_card_writes_into_the_artifact(shelf: Path) -> None:
    record(shelf / INFER, 40.0)
    record(shelf / RANDOM, 50.0)
    before = set(shelf.rglob("*"))
    assert run("card", INFER).splitlines() == [str(shelf / INFER / README)]
    text = (shelf / INFER / README).read_text()
    assert text == rendered(shelf / INFER, shelf / RANDOM)[shelf / INFER]
    assert "scores below random selection (50.00 %)" in text
    assert set(shelf.rglob("*")) - before == {shelf / INFER / README} and not [*Path().iterdir()]
    run("verify", INFER)


def test_card_all_renders_every_bundled_card_and_the_leaderboard(shelf: Path) -> None:
    without_data(shelf, f"{INFER}-hard")
    record(shelf / INFER, 40.0)
    record(shelf / RANDOM, 50.0)
    teacher(shelf / "one")
    folders = [shelf / name for name in (INFER, f"{INFER}-hard", RANDOM)]
    assert run("card", "--all").splitlines() == [str(path / README) for path in (*folders, shelf)]
    assert {path: (path / README).read_text() for path in folders} == rendered(*folders)
    assert not (shelf / "one" / README).exists()
    board = (shelf / README).read_text()
    assert board == card.leaderboard([results.read(path) for path in folders])
    assert board.startswith("# Leaderboard") and all(
        f"[{path.name}]({path.name}/README.md)" in board for path in folders
    )
    link = f"[{INFER}](../{INFER}/README.md), whose images are shown"
    assert link in (folders[1] / README).read_text()
    run("verify", INFER, RANDOM)


def test_card_of_an_artifact_that_is_not_bundled(shelf: Path, tmp_path: Path) -> None:
    """It stands beside the bundled ones on its card; with --all also on theirs and on the leaderboard."""
    record(shelf / INFER, 40.0)
    made = tmp_path / "made" / f"{INFER}-mine"
    write(made, compensated=True)
    record(made, 50.0)
    run("card", made)
    folders = (shelf / INFER, shelf / RANDOM, made)
    assert (made / README).read_text() == rendered(*folders)[made] and not (shelf / INFER / README).exists()
    run("card", made, "--all")
    assert {path: (path / README).read_text() for path in folders} == rendered(*folders)
    assert f"| {made.name} |" in (shelf / INFER / README).read_text() and "50.00" in (shelf / README).read_text()


def test_card_takes_names_or_all(shelf: Path) -> None:
    code, line = fail("card")
    assert code == 2 and line == "error: no card to render; name an artifact, or give --all (ddhub card --help)"
    assert fail("card", INFER, "--to", "cards")[0] == 2


def test_card_refuses_namesakes(shelf: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(shelf / INFER, tmp_path / name)
    code, line = fail("card", tmp_path / "a", tmp_path / "b")
    assert code == 2 and "one of them at a time" in line


def newer(manifest: dict[str, Any]) -> None:
    manifest["format"] = 2


def stranger(manifest: dict[str, Any]) -> None:
    manifest["colour"] = "red"


@pytest.mark.parametrize(
    ("change", "words"),
    [(newer, ("newer ddhub", "pip install -U ddhub")), (stranger, ("unknown field 'colour'",))],
)
@pytest.mark.parametrize("command", ["info", "verify", "train", "preview", "card", "compare", "cite"])
def test_a_manifest_of_another_kind(
    shelf: Path, tmp_path: Path, command: str, change: Callable[..., None], words: tuple[str, ...]
) -> None:
    forge(Path(shutil.copytree(shelf / INFER, tmp_path / "odd")), change)
    code, line = fail(command, tmp_path / "odd")
    assert code == 1 and all(word in line for word in words) and "odd" in line


def test_errors_name_the_thing_and_the_next_step(shelf: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    code, line = fail("verify", empty)
    assert code == 1 and "not an artifact" in line and str(empty) in line
    code, line = fail("train", INFER, "--model", "resnet81")
    assert code == 2 and "did you mean 'resnet18'" in line
    code, line = fail("train", INFER, "--protocol", "infer-statik")
    assert code == 2 and "did you mean 'infer-static'" in line
    assert fail("preview", INFER, "--to", "a.jpg")[0] == 2
    (tmp_path / "file").write_text("")
    code, line = fail("preview", INFER, "--to", tmp_path / "file" / "a.png")
    assert code == 1 and "cannot be written" in line


def test_exit_codes_of_a_process(shelf: Path, tmp_path: Path) -> None:
    done = process("info", "tiny-infr-ipc2")
    code, line = exit_of(done.returncode, done.stdout, done.stderr)
    assert code == 2 and f"did you mean '{INFER}'? (ddhub list; ddhub/tiny-infr-ipc2: no such" in line
    done = process("card", tmp_path, new=False)
    code, line = exit_of(done.returncode, done.stdout, done.stderr)
    assert code == 1 and f"{tmp_path} is not an artifact" in line
    done = process("train", INFER, "--test", "cifar10", "--data", tmp_path / "nowhere", new=False)
    code, line = exit_of(done.returncode, done.stdout, done.stderr)
    assert code == 1 and "nowhere" in line and "pass --data ROOT or set DDHUB_DATA" in line


def test_options_that_cannot_be() -> None:
    for words in (["lst"], ["train"], ["train", "x", "--seeds", "0"], ["info", "x", "--colour"]):
        done = CliRunner().invoke(app.cli, words)
        assert done.exit_code == 2 and done.stdout == ""


def test_an_interrupt_is_not_a_traceback(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ddhub.artifact.bundled.at_hand", mock.Mock(side_effect=KeyboardInterrupt))
    monkeypatch.setattr(sys, "argv", ["ddhub", "list"])
    with contextlib.redirect_stderr(io.StringIO()) as err, pytest.raises(SystemExit) as stop:
        app.main()
    assert stop.value.code == 130
    assert err.getvalue().strip().startswith("interrupted")
