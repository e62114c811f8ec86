"""The command line: what it prints, what it writes, and how it fails."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from test_artifact import forge
from test_results import result, tiny

from ddhub import card, cli, hub, results, sources
from ddhub.artifact import Artifact
from ddhub.manifest import MANIFEST, PARQUET, PREVIEW, README, RESULTS, seal_text

INFER, RANDOM = "tiny-infer-ipc2", "tiny-random-ipc2"
STUDENT = ("--model", "convnet3-w4", "--epochs", "1", "--device", "cpu", "--precision", "fp32")


def write(folder: Path, *, compensated: bool = False, **changes: Any) -> Artifact:
    """A small artifact of the first cifar10-mini images of each class."""
    source = sources.open_source("cifar10-mini")
    per_class = 1 if compensated else 2
    rows = torch.cat([(source.labels == k).nonzero().flatten()[:per_class] for k in range(10)])
    tensors = {}
    if compensated:
        tensors = {
            "decoder.compensators": torch.full((2, 1, 3, 32, 32), 127, dtype=torch.int8),
            "decoder.scale": torch.tensor([[0.0], [1 / 127]]),
        }
    manifest = tiny(
        name=folder.name,
        method="infer" if compensated else "random-real",
        dataset="cifar10-mini",
        classes=source.classes,
        image_size=(3, 32, 32),
        mean=source.mean,
        std=source.std,
        decoder={"kind": "compensate" if compensated else "identity"},
        labels={"kind": "hard"},
        tensors={},
        **changes,
    )
    return Artifact.write(
        folder,
        manifest=manifest,
        images=source.images[rows],
        image_labels=source.labels[rows],
        tensors=tensors,
        recipe_text='"""A recipe."""\n',
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
    bundled, here = tmp_path / "bundled", tmp_path / "here"
    shutil.copytree(bundle, bundled)
    here.mkdir()
    monkeypatch.setattr(hub, "BUNDLED", bundled)
    monkeypatch.setattr("ddhub._program.keep_freed_memory", lambda: None)
    monkeypatch.chdir(here)
    return bundled


def run(*words: object) -> str:
    """Standard output of a command that must succeed."""
    done = CliRunner().invoke(cli.cli, [*map(str, words)], catch_exceptions=False)
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
        cli.main()
    return exit_of(stop.value.code, out.getvalue(), err.getvalue())


def exit_of(code: Any, out: str, err: str) -> tuple[int, str]:
    lines = err.splitlines()
    assert out == "" and len(lines) == 1 and lines[0].startswith("error: "), (out, err)
    return code, lines[0]


def process(*words: object, check: str = "pass") -> subprocess.CompletedProcess[str]:
    """A command as a process of its own, with the bundle of this test; then `check`, a statement."""
    code = (
        "import sys, pathlib; from ddhub import hub, cli; hub.BUNDLED = pathlib.Path(sys.argv.pop(1))\n"
        f"try: cli.main()\nfinally: {check}"
    )
    command = [sys.executable, "-c", code, str(hub.BUNDLED), *map(str, words)]
    env = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)


def record(folder: Path, *accuracies: float, **changes: Any) -> None:
    artifact = Artifact.open(folder, verify=False)
    for seed, accuracy in enumerate(accuracies):
        artifact.add_result(asdict(result(artifact.manifest, seed, accuracy, **changes)))


def test_list_without_and_with_results(shelf: Path) -> None:
    lines = run("list").splitlines()
    assert lines[0].split() == ["name", "method", "dataset", "ipc", "stored", "bytes", "bits", "per", "class"]
    # 10 images and labels, 2 compensators and their scales: 30,730 + 6,144 + 8 bytes
    assert lines[1].split() == [INFER, "infer", "cifar10-mini", "2", "36,882", "29,506"]
    assert lines[2].split() == [RANDOM, "random-real", "cifar10-mini", "2", "61,460", "49,168"]
    assert len(lines) == 3
    record(shelf / INFER, 40.0, 41.0, 43.5)
    record(shelf / INFER, 50.0, model="resnet18")
    record(shelf / RANDOM, 30.0, test_fingerprint="cafe")
    _, first, second = run("list").split("\n\n")
    assert "last epoch, protocol infer-dynamic" in first and "10,000 test images" in first
    assert first.splitlines()[1].split() == ["name", "convnet3", "resnet18"]
    assert first.splitlines()[2].split("  ")[1:] == ["41.50 ± 1.80 (n = 3)", "50.00 (n = 1)"]
    assert RANDOM not in first and RANDOM in second and INFER not in second


def test_list_as_json(shelf: Path) -> None:
    record(shelf / INFER, 40.0, 42.0)
    infer, random = json.loads(run("list", "--json"))
    assert (infer["name"], infer["bytes"], infer["bits_per_class"]) == (INFER, 36882, 29505.6)
    assert [(x["mean"], x["n"], x["model"]) for x in infer["results"]] == [(41.0, 2, "convnet3")]
    assert infer["results"][0]["sd"] == pytest.approx(2**0.5)
    assert random["results"] == []


def test_list_and_help_do_not_import_torch(shelf: Path) -> None:
    record(shelf / INFER, 40.0, 42.0)
    check = "assert not {'torch', 'numpy', 'datasets', 'pyarrow'} & sys.modules.keys()"
    for words in (["list"], ["info", INFER, "--json"], ["card", INFER, "--to", "cards"], ["--help"]):
        done = process(*words, check=check)
        assert (done.returncode, done.stderr) == (0, ""), (words, done.stderr)
        assert done.stdout


def test_info(shelf: Path) -> None:
    record(shelf / INFER, 40.0)
    text = run("info", INFER)
    digest = Artifact.open(shelf / INFER).manifest.digest
    for line in (
        f"digest          {digest}",
        "classes         10: airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck",
        "image_size      3 x 32 x 32",
        "decoder         kind compensate",
        "recipe          path recipes/infer.py, preset tiny-ipc2-cpu, seed 0, commit abc",
        "teachers        accuracy 71.234, epochs 4, model convnet3-bn",
        "deviations      Scaled down: teacher_epochs 4 instead of 200",
        "bits_per_class  29505.6",
    ):
        assert line in text.splitlines()
    assert "results         convnet3: 40.00 % (n = 1) on Tiny (JPEG copy), 10,000 test images, protocol inf" in text
    facts = json.loads(run("info", shelf / INFER, "--json"))
    assert facts["tensor_bytes"]["decoder.compensators"] == 6144
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
    digest = Artifact.open(shelf / INFER).manifest.digest
    first, second = run("verify", INFER, RANDOM).splitlines()
    assert first == f"{INFER}: ok, 7 files, digest {digest}"
    assert second.startswith(f"{RANDOM}: ok, 4 files, digest ")
    (report,) = json.loads(run("verify", INFER, "--json"))
    assert report == {"name": INFER, "ok": True, "files": 7, "digest": digest}


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
    done = CliRunner().invoke(cli.cli, ["verify", INFER, RANDOM])
    assert done.exit_code == 1
    assert done.stdout.startswith(f"{RANDOM}: ok")
    assert done.stderr.startswith("error: ") and PARQUET in done.stderr
    done = CliRunner().invoke(cli.cli, ["verify", INFER, RANDOM, "--json"])
    assert [report["ok"] for report in json.loads(done.stdout)] == [False, True]
    assert done.exit_code == 1


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", [PARQUET, "tensors.safetensors", "recipe.py", PREVIEW, MANIFEST, RESULTS])
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
    assert cells[1].tobytes() == stored.tobytes()  # its scale is 0
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


def test_card_writes_into_the_artifact_and_a_folder(shelf: Path) -> None:
    record(shelf / INFER, 40.0)
    record(shelf / RANDOM, 50.0)
    run("card", INFER, "--to", "cards")
    text = (shelf / INFER / README).read_text()
    assert text == seal_text(
        card.render(results.read(shelf / INFER), [results.read(shelf / name) for name in (INFER, RANDOM)])
    )
    assert "scores below random selection (50.00 %)" in text
    assert Path("cards", INFER, README).read_text() == text
    assert Path("cards", INFER, PREVIEW).read_bytes() == (shelf / INFER / PREVIEW).read_bytes()
    assert Path("cards", RANDOM, README).exists() and not (shelf / RANDOM / README).exists()
    board = Path("cards", README).read_text()
    assert board.startswith("# Leaderboard") and INFER in board and RANDOM in board
    run("verify", INFER)


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
@pytest.mark.parametrize("command", ["info", "verify", "train", "preview", "card"])
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
    assert code == 2 and f"did you mean '{INFER}'? (ddhub list)" in line
    done = process("card", tmp_path)
    code, line = exit_of(done.returncode, done.stdout, done.stderr)
    assert code == 1 and f"{tmp_path} is not an artifact" in line
    done = process("train", INFER, "--test", "cifar10", "--data", tmp_path / "nowhere")
    code, line = exit_of(done.returncode, done.stdout, done.stderr)
    assert code == 1 and "nowhere" in line and "pass --data ROOT or set DDHUB_DATA" in line


def test_options_that_cannot_be() -> None:
    for words in (["lst"], ["train"], ["train", "x", "--seeds", "0"], ["info", "x", "--colour"]):
        done = CliRunner().invoke(cli.cli, words)
        assert done.exit_code == 2 and done.stdout == ""


def test_an_interrupt_is_no_traceback(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "catalog", mock.Mock(side_effect=KeyboardInterrupt))
    monkeypatch.setattr(sys, "argv", ["ddhub", "list"])
    with contextlib.redirect_stderr(io.StringIO()) as err, pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 130
    assert err.getvalue().strip().startswith("interrupted")
