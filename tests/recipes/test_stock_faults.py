"""A stock run against slips of the pen, killed neighbours and others beside it: nothing good is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from test_stock_runner import TABLE, invoke, made, written

from ddhub.artifact.results import read
from ddhub.errors import UsageError
from ddhub.io.files import locked
from recipes.stock import shelf
from recipes.stock.deadline import Deadline
from recipes.stock.table import read_table
from recipes.stock.workshop import Workshop

RANDOM = TABLE[TABLE.index('[[artifact]]\nname = "mini-random"') :]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("artifact = [3]", "artifact 1 is 3; it must be a table [[artifact]]"),
        ('artifact = ["x"]', "artifact 1 is 'x'; it must be a table [[artifact]]"),
        ("", "artifact is []; it must be one or more tables [[artifact]]"),
        (RANDOM.replace('"random-real"', "[1]"), "method is [1]; it must be the name of a method"),
        (RANDOM.replace('method = "random-real"', ""), "method is None; it must be the name of a method"),
        (RANDOM.replace("settings = {", "settings = 3  # {"), "settings is 3; it must be a table"),
        (RANDOM + "tier.gpu.settings = 3", "settings is 3; it must be a table"),
        (
            RANDOM + 'students = [{ model = "convnet3", seeds = 99999999999999999999 }]',
            "seeds is 99999999999999999999;",
        ),
        (RANDOM + 'students = [{ model = "convnet3", epochs = 2000000 }]', "epochs is 2000000; it must be a whole"),
        (RANDOM + 'students = [{ model = "convnet3-w9999999999" }]', "unknown model 'convnet3-w9999999999'"),
    ],
)
def test_slips_of_the_pen_are_errors_of_one_line(text: str, message: str, tmp_path: Path) -> None:
    file = written(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        read_table(file, "cpu", ())
    assert str(caught.value).startswith(str(file)) and message in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--precision", "fp8"], "precision is 'fp8'"),
        (["--dry-run", "--machine", "h1000"], "h1000"),
        (["--minutes", "nan"], "minutes is nan; it must be a number above 0, at most 525,600"),
        (["--minutes", "1e12"], "minutes is 1000000000000.0"),
    ],
)
def test_options_are_checked_whatever_is_left_to_do(options: list[str], message: str, tmp_path: Path) -> None:
    written(tmp_path, RANDOM)
    done = invoke(tmp_path, *options)
    assert done.exit_code and message in f"{done.exception} {done.output}"
    assert not (tmp_path / "cards").exists()


def test_exact_numbers_are_asked_for_as_everywhere_else(tmp_path: Path) -> None:
    written(tmp_path, RANDOM)
    assert invoke(tmp_path, "--exact").exit_code == 0
    assert read(tmp_path / "cards" / "mini-random").manifest.recipe["run"]["precision"] == "exact"


def test_a_year_is_no_limit_to_speak_of() -> None:
    with Deadline(365 * 24 * 60) as deadline:
        assert not deadline.over


def test_folders_that_would_overwrite_one_another_are_refused(tmp_path: Path) -> None:
    items, _ = read_table(written(tmp_path, RANDOM.replace("mini-random", "work")), "cpu", ())
    table, out = {item.name: item for item in items}, tmp_path / "out"
    with pytest.raises(UsageError, match="where the stages are; choose another --work"):
        Workshop(table, out=out, work=out / "work", stock=tmp_path / "cards")
    Workshop(table, out=out, work=tmp_path / "stages", stock=tmp_path / "cards")
    with pytest.raises(UsageError, match="is the stock, where nothing is made before it is compared"):
        Workshop({}, out=tmp_path / "a" / ".." / "cards", work=tmp_path / "work", stock=tmp_path / "cards")


def gone() -> int:
    """The number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_a_killed_run_had_put_aside_is_not_replaced_by_worse(tmp_path: Path) -> None:
    stock = tmp_path / "cards"
    shelf.put(made(tmp_path / "a", [30, 32]), stock)
    content = read(stock / "mini").manifest.content
    aside = stock / f".mini.tmp-{gone()}-old"
    os.rename(stock / "mini", aside)
    assert not shelf.put(made(tmp_path / "b", [1, 2], seed=1), stock).changed
    assert read(stock / "mini").manifest.content == content and not aside.exists()


def test_a_run_puts_back_what_was_put_aside(tmp_path: Path) -> None:
    written(tmp_path, RANDOM)
    assert invoke(tmp_path).exit_code == 0
    manifests = [tmp_path / top / "mini-random" / "manifest.json" for top in ("out", "cards")]
    before = [path.stat().st_mtime_ns for path in manifests]
    for top in ("out", "cards"):
        os.rename(tmp_path / top / "mini-random", tmp_path / top / f".mini-random.tmp-{gone()}-old")
    again = invoke(tmp_path)
    assert again.exit_code == 0 and "the same images and labels as the stocked one" in again.output
    assert before == [path.stat().st_mtime_ns for path in manifests]


def test_one_damaged_artifact_ends_nothing_but_its_own_item(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The others of the table are made and stocked; what is damaged stays where it is, and is named."""
    text = "".join(RANDOM.replace("mini-random", f"mini-{k}").replace("ipc = 2", f"ipc = {k}") + "\n" for k in (1, 2))
    written(tmp_path, text)
    assert invoke(tmp_path).exit_code == 0
    manifest = tmp_path / "cards" / "mini-1" / "manifest.json"
    manifest.write_text("{" + manifest.read_text())
    shutil.rmtree(tmp_path / "cards" / "mini-2")
    shutil.rmtree(tmp_path / "out")
    done = invoke(tmp_path)
    assert "1 of 2 failed, mini-1" in str(done.exception), done.exception
    assert (tmp_path / "cards" / "mini-2" / "manifest.json").exists() and manifest.read_text().startswith("{{")
    assert "mini-1 is taken for missing" in caplog.text and "cards and leaderboard stay as they are" in caplog.text


def test_two_runs_with_one_stock_take_turns(tmp_path: Path) -> None:
    stock, better, worse = tmp_path / "cards", made(tmp_path / "a", [50, 50]), made(tmp_path / "b", [40, 40], seed=1)
    shelf.put(made(tmp_path / "c", [30, 30], seed=2), stock)
    verdicts: list[shelf.Verdict] = []
    with locked(stock):
        waiting = threading.Thread(target=lambda: verdicts.append(shelf.put(worse, stock)))
        waiting.start()
        waiting.join(0.5)
        assert not verdicts  # it has not compared yet
        shelf.copy(better, stock)
    waiting.join()
    assert not verdicts[0].changed and read(stock / "mini").manifest.content == read(better).manifest.content
