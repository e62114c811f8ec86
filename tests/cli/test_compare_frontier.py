"""`ddhub compare --frontier`: its tables, its JSON, its picture, and what it cannot show."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from test_cli import INFER, RANDOM, bundle, cells, fail, record, run, shelf, stored, write

from ddhub.protocols.named import protocol

__all__ = ["bundle", "shelf"]  # fixtures

FRONTIER = ("compare", "--frontier")


def test_the_table_is_by_size_with_a_star_on_the_frontier(shelf: Path) -> None:
    record(shelf / INFER, 40.0, 41.0, 43.5)  # one image a class and the compensators
    record(shelf / INFER, 30.0, plan=protocol("rded"))
    record(shelf / RANDOM, 50.0, 52.0, plan=protocol("rded"))  # two images a class
    write(shelf / "tiny-udd-ipc2", method="udd")
    record(shelf / "tiny-udd-ipc2", 20.0)
    sizes = {name: stored(shelf / name) for name in (INFER, RANDOM)}
    assert sizes[INFER] < sizes[RANDOM]
    title, rule, head, *rows = run(*FRONTIER).splitlines()
    assert title.startswith("accuracy in %, last epoch, convnet3, Tiny (JPEG copy), 10,000 test images; *")
    assert "protocols may differ from row to row" in rule
    assert cells(head) == [
        *("bytes a class", "bytes", "name", "method", "encoding", "labels", "protocol", "accuracy", "n")
    ]
    size = sizes[INFER]
    shared = [f"{size / 10:,.0f}", f"{size:,}", INFER, "infer", "png", "hard", "infer-dynamic", "41.50 ± 1.80", "3"]
    assert cells(rows[0]) == ["*", *shared]
    by = {x[3] if x[0] == "*" else x[2]: x for x in map(cells, rows[:3])}
    assert by[RANDOM][0] == "*" and by[RANDOM][-3:] == ["rded", "51.00 ± 1.41", "2"]
    assert by["tiny-udd-ipc2"][0] != "*"
    assert rows[3:] == []  # nothing on the frontier has a random selection that is as small


def test_random_selection_at_those_bytes(shelf: Path, tmp_path: Path) -> None:
    write(shelf / "tiny-udd-ipc2", method="udd")
    record(shelf / "tiny-udd-ipc2", 60.0)
    record(shelf / RANDOM, 50.0)
    text = run(*FRONTIER, "tiny-udd-ipc2")  # random selection is looked for among all at hand
    assert RANDOM not in text.split("\n\n")[0]
    row = cells(text.splitlines()[-1])
    assert row[:2] == ["tiny-udd-ipc2", RANDOM] and row[3:] == ["infer-dynamic", "50.00", "1", "+10.00"]
    found = json.loads(run(*FRONTIER, "tiny-udd-ipc2", "--json"))
    (item,) = found["artifacts"]
    assert (item["name"], item["frontier"], item["bytes"]) == ("tiny-udd-ipc2", True, stored(shelf / "tiny-udd-ipc2"))
    assert (item["encoding"], item["labels"], item["label_bits"]) == ("png", "hard", None)
    assert (item["mean"], item["sd"], item["n"], item["protocol"]) == (60.0, None, 1, "infer-dynamic")
    assert (item["random_selection"]["name"], item["random_selection"]["mean"]) == (RANDOM, 50.0)
    assert (found["model"], found["dataset"], found["published"]) == ("convnet3", "cifar10-mini", [])


def test_a_frontier_of_a_folder_whose_protocol_nothing_else_has(shelf: Path, tmp_path: Path) -> None:
    made = shutil.copytree(shelf / INFER, tmp_path / INFER)
    record(made, 40.0, plan=protocol("rded", epochs=7))
    assert "40.00" in run(*FRONTIER, made, "--protocol", "rded+epochs=7")


def test_published_points_stand_below(shelf: Path) -> None:
    write(shelf / "ten", dataset="cifar10")
    record(shelf / "ten", 30.0)
    text = run(*FRONTIER).split("\n\n")[-1]
    assert text.startswith("published, copied and not repeated here") and "labels included" in text.splitlines()[0]
    row = ["13,400", "TM-RUO", "70.3", "copied: Bao et al., 2025, arXiv 2507.17221"]
    assert cells(text.splitlines()[2]) == row
    first = json.loads(run(*FRONTIER, "--json"))["published"][0]
    assert (first["method"], first["low"], first["accuracy"], first["copied"]) == ("TM-RUO", 13400, 70.3, True)


def test_it_is_of_one_data_set_student_and_test_set(shelf: Path) -> None:
    code, line = fail(*FRONTIER)
    assert code == 2 and "no recorded result is as chosen" in line
    write(shelf / "ten", dataset="cifar10")
    for name in ("ten", INFER):
        record(shelf / name, 30.0)
    record(shelf / INFER, 30.0, model="resnet18")
    record(shelf / INFER, 30.0, test_fingerprint="cafe" * 16)
    start = "error: a frontier is of one data set, student and test set; choose with"
    line = fail(*FRONTIER)[1]
    assert line == f"{start} --dataset, or NAMEs: cifar10, cifar10-mini"
    words = [*FRONTIER, "--dataset", "cifar10-mini"]
    assert fail(*words)[1] == f"{start} --model, or NAMEs: convnet3, resnet18"
    words += ["--model", "convnet3"]
    assert fail(*words)[1] == f"{start} --test, or NAMEs: beefbeefbeef, cafecafecafe"
    assert INFER in run(*words, "--test", "cafe")


def test_it_is_drawn(shelf: Path) -> None:
    pytest.importorskip("matplotlib")
    write(shelf / "ten", dataset="cifar10")
    write(shelf / "drawn", dataset="cifar10", method="edf")
    record(shelf / "ten", 30.0, 31.0)
    record(shelf / "drawn", 20.0)
    assert run(*FRONTIER, "--plot", "a.png").splitlines()[0] == "a.png"
    with Image.open("a.png") as image:
        image.load()
        assert image.width > 500 and len(image.convert("RGB").getcolors(10**6)) > 100
    first = Path("a.png").read_bytes()
    run(*FRONTIER, "--plot", "a.png", "--json")
    assert Path("a.png").read_bytes() == first
    assert fail(*FRONTIER, "--plot", "a.jpg")[0] == 2
