"""A stock run: killed and cut off it ends as an uninterrupted one; what is better is stocked; tables are strict."""

from __future__ import annotations

import random
import re
import shutil
import sys
import time
import tomllib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import forked
import pytest
from click.testing import CliRunner, Result

from ddhub.artifact import bundled
from ddhub.artifact.folder import Artifact
from ddhub.artifact.results import read
from ddhub.cli.program import guarded
from ddhub.errors import DDHubError, UsageError
from ddhub.protocols.protocol import Protocol
from ddhub.sources.source import open_source
from recipes import __main__
from recipes.run.options import discover
from recipes.run.run import Run
from recipes.stock import shelf
from recipes.stock.runner import StockRun
from recipes.stock.table import TIERS, read_table
from recipes.stock.workshop import Workshop

ROOT = Path(__file__).parents[2]
TABLE = """
[[artifact]]
name = "mini-edf"
method = "edf"
baseline = "mini-random"
students = [{ model = "convnet3-w8", seeds = 2 }]
tier.cpu.preset = "smoke"

[[artifact]]
name = "mini-infer"
method = "infer"
baseline = "mini-random"
students = [{ model = "convnet3-w8", seeds = 2, epochs = 10 }, { model = "convnet3-w8", protocol = "datm", epochs = 4 }]
settings = { steps = 20 }
tier.cpu.preset = "smoke"

[[artifact]]
name = "mini-random"
method = "random-real"
settings = { dataset = "cifar10-mini", ipc = 2 }
"""
NAMES = ("mini-edf", "mini-infer", "mini-random")


def written(folder: Path, text: str = TABLE) -> Path:
    (folder / "stock.toml").write_text(text)
    return folder / "stock.toml"


def words(folder: Path, *more: str) -> list[str]:
    """The command line of a stock run whose folders are all in `folder`."""
    places = ["--out", str(folder / "out"), "--stock", str(folder / "cards")]
    return ["stock", str(folder / "stock.toml"), "--tier", "cpu", *places, *more]


def start(folder: Path, *more: str) -> forked.Child:
    """A stock run, which is behind all imports."""
    run = forked.start("-m", "recipes", *words(folder, *more))
    while run.poll() is None and "\n" not in run.stderr:
        time.sleep(0.01)
    return run


def invoke(folder: Path, *more: str) -> Result:
    return CliRunner().invoke(__main__.group(), words(folder, *more))


def found(stock: Path) -> dict[str, Any]:
    """Content and accuracies of all that is stocked, whatever it took."""
    entries = {name: read(stock / name) for name in NAMES}
    key = ("model", "protocol_digest", "seed", "accuracy", "steps")
    results = {name: sorted([asdict(x)[k] for k in key] for x in entry.results) for name, entry in entries.items()}
    return {name: (entry.manifest.content, results[name]) for name, entry in entries.items()}


def test_a_run_that_is_killed_and_cut_off_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
        written(folder)
    run = start(whole)
    begin = time.monotonic()
    code, out, log = run.wait(), run.stdout, run.stderr
    seconds = time.monotonic() - begin
    assert code == 0, log
    assert [line.split()[:4] for line in out.splitlines()[1:]] == [
        *(["mini-edf", "6", "of", "6"], ["mini-infer", "8", "of", "8"], ["mini-random", "1", "of", "1"])
    ]
    assert re.search(r"done 2 of 12, running mini-edf: convnet3-w8, seed 0; .* left|known yet", log)

    draw = random.Random(4)
    for _ in range(3):
        run = start(cut)
        time.sleep(draw.uniform(0.05, 0.4) * seconds)
        run.kill()
        run.wait()
    run = start(cut, "--minutes", "0.02")  # 1.1 s
    assert run.wait() == 0, run.stderr
    out = run.stdout
    assert re.match(r"stopped in time: \d+ of 12 steps left, .*; the same command goes on from there", out)
    assert "not finished" in out
    run = start(cut)
    assert run.wait() == 0, run.stderr
    assert found(cut / "cards") == found(whole / "cards")
    assert len(found(cut / "cards")["mini-random"][1]) == 4
    for name in NAMES:
        Artifact.open(cut / "cards" / name)
    assert "mini-edf" in (cut / "cards/README.md").read_text() and (cut / "cards/mini-edf/README.md").exists()
    assert not [*(cut / "out" / "work").glob("*.checkpoint"), *(cut / "out" / "work").glob("*.part")]


def test_a_dry_run_prints_what_every_entry_costs_and_writes_nothing(tmp_path: Path) -> None:
    written(tmp_path)
    done = invoke(tmp_path, "--dry-run", "--machine", "h100")
    assert done.exit_code == 0, done.output
    rows = [re.split(r"  +", line.strip()) for line in done.stdout.splitlines()]
    assert rows[0] == ["artifact", "stage", "images", "TFLOP", "seconds"]
    stages = {tuple(row[:2]) for row in rows if len(row) == 5}
    assert {(name, "sum") for name in (*NAMES, "all")} <= stages
    assert {
        ("mini-edf", "experts"),
        ("mini-edf", "4 x match"),
        ("mini-infer", "teacher-convnet3-bn-w8"),
        ("mini-infer", "2 x student convnet3-w8 (infer-static-50+epochs=10)"),
        ("mini-random", "2 x student convnet3-w8 (datm+epochs=4)"),  # those of both artifacts, once
    } <= stages
    assert [path.name for path in tmp_path.iterdir()] == ["stock.toml"]


def test_one_artifact_alone_with_what_it_needs(tmp_path: Path) -> None:
    written(
        tmp_path,
        TABLE.replace("edf", "random-real")
        .replace("mini-random-real", "mini-more")
        .replace("seeds = 2 }", "epochs = 2 }"),
    )
    done = invoke(tmp_path, "--only", "mini-more")
    assert done.exit_code == 0, done.output
    assert {path.name for path in (tmp_path / "cards").iterdir()} == {"mini-more", "mini-random", "README.md"}
    again = invoke(tmp_path, "--only", "mini-more", "--only", "mini-random")
    assert again.exit_code == 0 and "mini-random  1 of 1" in again.stdout
    shutil.rmtree(tmp_path / "out")  # what is stocked with these settings is neither made nor trained again
    plan = invoke(tmp_path, "--only", "mini-more", "--dry-run", "--machine", "h100")
    assert "mini-more  done: 3 of 3 steps" in plan.stdout, plan.stdout
    wrong = invoke(tmp_path, "--only", "mini-mre")
    assert str(wrong.exception) == "unknown artifact 'mini-mre'; did you mean 'mini-more'? (of this table and tier)"


def test_what_fails_is_said_and_the_others_go_on(tmp_path: Path) -> None:
    text = TABLE.replace("settings = { steps = 20 }", "settings = { steps = 20, ipc = 1 }")
    written(tmp_path, text[text.index('[[artifact]]\nname = "mini-infer"') :].replace("ipc = 2", "ipc = 1"))
    done = invoke(tmp_path)
    assert isinstance(done.exception, DDHubError)
    assert str(done.exception) == "1 of 2 failed, mini-infer; their lines above say why"
    assert "failed: ipc 1 is too small for INFER" in done.stdout and (tmp_path / "cards" / "mini-random").is_dir()


def test_control_c_is_no_planned_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    written(tmp_path)
    monkeypatch.setattr(StockRun, "go", interrupted)
    monkeypatch.setattr(sys, "argv", ["recipes", *words(tmp_path)])
    assert guarded(__main__.group(), "python -m recipes", "interrupted") == 130
    assert capsys.readouterr().err.strip() == "interrupted"


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    places = {"out": tmp_path / "out", "work": tmp_path / "work", "stock": tmp_path / "cards"}
    with (
        Workshop({}, **places).alone(),
        pytest.raises(UsageError, match="another stock run writes in"),
        Workshop({}, **places).alone(),
    ):
        pass


def made(folder: Path, accuracies: list[float], seed: int = 0) -> Path:
    """Random selection called `mini`, with results as given for the seeds of a student."""
    recipe = discover()["random-real"]
    cfg = replace(recipe.SMOKE, seed=seed)
    artifact = recipe.distill(cfg, Run(recipe, cfg, folder / "mini"))
    like, test = read(bundled.BUNDLED / "cifar10-random-ipc10").results[0], open_source("cifar10-mini", "test")
    for number, accuracy in enumerate(accuracies):
        result = replace(
            like,
            artifact="mini", digest=artifact.manifest.digest, seed=number, accuracy=accuracy,
            test_name="cifar10-mini", test_fingerprint=test.fingerprint,
        )  # fmt: skip
        artifact.add_result(asdict(result))
    return folder / "mini"


def test_what_is_better_replaces_what_is_stocked_and_nothing_else_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock = tmp_path / "cards"
    first = made(tmp_path / "a", [30, 32])
    assert shelf.put(first, stock) == (True, True, "stocked: it is new")
    assert shelf.put(first, stock) == (False, True, "the same images and labels as the stocked one")
    content = read(first).manifest.content

    worse = shelf.put(made(tmp_path / "b", [29, 32], seed=1), stock)
    assert not worse.changed and worse.words == (
        f"left in {tmp_path / 'b' / 'mini'}: not better in all that can be compared, 30.50 ± 2.12 % after "
        "31.00 ± 1.41 % (convnet3, infer-static-50, n = 2); --replace stocks it anyway"
    )
    few = shelf.put(made(tmp_path / "c", [40], seed=1), stock)
    assert "no result of the same protocol, model and test images to compare with" in few.words
    assert read(stock / "mini").manifest.content == content

    better = made(tmp_path / "d", [31, 33], seed=1)
    monkeypatch.setattr(shelf, "LARGEST", 1000)
    assert re.search(
        r"left in .*: data/train-.*\.parquet has [0-9,]+ bytes, and a file of the stock 1,000 at most",
        shelf.put(better, stock, replace=True).words,
    )
    monkeypatch.undo()
    assert shelf.put(better, stock).words.startswith("stocked: 32.00 ± 1.41 % after 31.00 ± 1.41 % (convnet3")
    assert read(stock / "mini").manifest.content != content and len(read(stock / "mini").results) == 2
    assert shelf.put(first, stock, replace=True).stocked and read(stock / "mini").manifest.content == content

    more = made(tmp_path / "e", [30, 32, 35])  # the same images: only what is not recorded yet is added
    assert shelf.put(more, stock).words.endswith("; 1 results are added to it")
    assert [x.accuracy for x in read(stock / "mini").results] == [30, 32, 35]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("method =", "metod ="), "unknown key 'metod'; did you mean 'method'? (artifact)"),
        (('method = "edf"', 'method = "efd"'), "artifact 'mini-edf': unknown method 'efd'; did you mean 'edf'"),
        (('preset = "smoke"', 'preset = "smok"'), "unknown preset 'smok'; did you mean 'smoke'"),
        (("tier.cpu.preset", "preset"), "artifact 'mini-edf': unknown preset 'smoke'"),
        (("tier.cpu.preset", "tier.tpu.preset"), "unknown key 'tpu'; did you mean 'gpu'? (tier)"),
        (('model = "convnet3-w8"', 'model = "convnet9"'), "unknown model 'convnet9'"),
        (('protocol = "datm"', 'protocol = "datn"'), "unknown protocol 'datn'; did you mean 'datm'"),
        (("seeds = 2", "seed = 2"), "unknown key 'seed'; did you mean 'seeds'? (student)"),
        (("seeds = 2", "seeds = 0"), "seeds is 0; it must be a whole number, 1 or more"),
        (("epochs = 10", 'epochs = "10"'), "epochs is '10'; it must be a whole number, 0 or more"),
        (("steps = 20", "step = 20"), "unknown key 'step'; did you mean 'steps'? (settings)"),
        (("steps = 20", "steps = 0"), "steps is 0; it must be 1 or more"),
        (('"cifar10-mini"', '"cifar11"'), "unknown data set 'cifar11'; did you mean 'cifar10'"),
        (('baseline = "mini-random"', 'baseline = "mini-rndom"'), "unknown baseline 'mini-rndom'; did you mean"),
        (('name = "mini-edf"', 'name = "mini-infer"'), "artifact 'mini-infer' is there twice"),
        (('name = "mini-edf"', 'name = "Mini"'), "name is 'Mini'; it must be a name of a-z"),
        (("[[artifact]]", "[artifact]"), "cannot be read ("),
    ],
)
def test_a_table_is_read_strictly(change: tuple[str, str], message: str, tmp_path: Path) -> None:
    file = written(tmp_path, TABLE.replace(*change))
    with pytest.raises(UsageError) as caught:
        read_table(file, "cpu", ())
    assert str(caught.value).startswith(str(file)) and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_preset_without_a_form_for_a_tier_is_skipped(tmp_path: Path) -> None:
    text = '[[artifact]]\nname = "x"\nmethod = "infer"\npreset = "cifar100-ipc10"\n'
    items, skipped = read_table(written(tmp_path, text), "cpu", ())
    assert not items and skipped == ["x is skipped: preset 'cifar100-ipc10' has no form for tier cpu"]


def test_every_preset_of_the_stock_exists_and_every_baseline_is_a_random_selection() -> None:
    file = ROOT / "recipes" / "stock.toml"
    rows = {row["name"]: row for row in tomllib.loads(file.read_text())["artifact"]}
    stocked = bundled.names()
    seen: set[str] = set()
    for tier in TIERS:
        items, skipped = read_table(file, tier, stocked)
        assert len(items) + len(skipped) == len(rows)
        seen |= {item.name for item in items}
        for item in items:
            assert item.recipe.__name__ == "recipes.random_real" or (item.students and "random" in item.baseline)
    assert seen == rows.keys()


def test_the_cpu_tier_of_the_stock_is_what_is_stocked() -> None:
    stocked = bundled.catalog()
    items, _ = read_table(ROOT / "recipes" / "stock.toml", "cpu", stocked)
    for item in items:
        if item.name in stocked:
            m = stocked[item.name]
            assert item.is_made(m), item.name
            own = Protocol.from_json(m.protocol)
            recorded = read(bundled.BUNDLED / item.name).recorded
            for student in item.students:
                assert len(recorded(student.plan(own).digest, student.model)) == student.seeds, item.name
    assert len(stocked.keys() & {item.name for item in items}) > 20
