"""`--encoding auto`: the best on held-out training images wins, and nothing else is different about its artifact."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from ddhub.artifact.encoding import name_of
from ddhub.artifact.folder import Artifact
from ddhub.data.view_labels import Logits, Spec
from ddhub.errors import UsageError
from ddhub.protocols.named import protocol
from ddhub.sources import source as sources
from ddhub.sources.source import open_source
from ddhub.training.loop import train
from ddhub.training.open import open_data
from recipes import __main__ as program
from recipes import edf, random_real
from recipes.run import search
from recipes.run.budget import room
from recipes.run.run import Run
from recipes.run.search import Candidate, Proxy, found
from recipes.run.teachers import real_data

BYTES = "30000"
TINY = [
    "--dataset",
    "cifar10-mini",
    "--student-epochs",
    "3",
    "--device",
    "cpu",
    "--precision",
    "fp32",
    "--bytes",
    BYTES,
]
PROXY = ["--candidates", "png,webp:0,webp:30", "--proxy", "convnet3-w8", "--proxy-steps", "20"]
AUTO = ["--encoding", "auto", *PROXY]


def recipes(*words: str | Path) -> Result:
    return CliRunner().invoke(program.group(), [*map(str, words)])


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, list[tuple[str, str]]]:
    """A searched artifact, and the splits that were opened for it."""
    opened: list[tuple[str, str]] = []
    real = sources.open_source

    def counted(name: str, split: str = "train", **settings: Any) -> Any:
        opened.append((name, split))
        return real(name, split, **settings)

    out, root = tmp_path_factory.mktemp("search") / "one", logging.getLogger()
    level = root.level
    root.setLevel(logging.INFO)  # as the program does
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sources, "open_source", counted)
            done = recipes("random-real", out, *TINY, *AUTO)
    finally:
        root.setLevel(level)
    assert done.exception is None, done.exception
    return Artifact.open(out), opened


def test_the_candidate_of_the_best_held_out_accuracy_is_taken(searched: tuple[Artifact, Any]) -> None:
    """By the lines of the log; and what they say of one candidate is what training on its set again gives."""
    artifact, _ = searched
    log = artifact.folder.with_name("one.work").joinpath("log.txt").read_text()
    rows = re.findall(r"candidate \d of 3, (\S+): (\d+) images a class, ([\d,]+) bytes, ([\d.]+) % of", log)
    scores = {name: float(score) for name, _, _, score in rows}
    assert list(scores) == ["png", "webp:0", "webp:30"]
    won = name_of(artifact.manifest.encoding).partition("/")[0]
    assert scores[won] == max(scores.values())
    assert f"encoding {won}, chosen on held-out training images of cifar10-mini/200" in log
    told = artifact.manifest.recipe["run"]["encodings"]
    assert told["chosen"] == won and told["held_out"] == "cifar10-mini/200" and told["bytes"] == int(BYTES)
    assert [round(x["accuracy"], 2) for x in told["candidates"]] == [*scores.values()]
    for (name, ipc, size, _), x in zip(rows, told["candidates"], strict=True):
        kept = Artifact.open(artifact.folder.with_name("one.work") / "candidates" / name.replace(":", "-"))
        m = kept.manifest
        assert (m.dataset, m.ipc, m.stored_bytes) == ("cifar10-mini/200", int(ipc), int(size.replace(",", "")))
        assert m.stored_bytes <= int(BYTES) and abs(x["steps"] - 20) <= -(-10 * m.ipc // 64) / 2
    plan = protocol("infer-static", epochs=told["candidates"][-1]["steps"] // open_data(kept).steps_per_epoch)
    held = open_source("cifar10-mini/200", "test")
    _, result = train(open_data(kept), "convnet3-w8", protocol=plan, seed=0, test=held, precision="fp32")
    assert result.accuracy == told["candidates"][-1]["accuracy"]


def test_the_artifact_is_that_of_the_encoding_by_name(searched: tuple[Artifact, Any]) -> None:
    artifact, opened = searched
    assert ("cifar10-mini/200", "test") in opened and ("cifar10-mini", "test") not in opened
    out = artifact.folder.with_name("named") / "one"
    won = artifact.manifest.recipe["run"]["encodings"]["chosen"]
    assert recipes("random-real", out, *TINY, "--encoding", won).exception is None
    named = Artifact.open(out)
    assert named.manifest.digest == artifact.manifest.digest
    assert "encodings" not in named.manifest.recipe["run"]


def test_the_same_command_goes_on_from_finished_candidates(
    searched: tuple[Artifact, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact, _ = searched
    work = artifact.folder.with_name("one.work")

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a finished candidate is made again")

    monkeypatch.setattr(search, "train", never)
    monkeypatch.setattr(search, "room", lambda *_: (artifact.manifest.ipc, False))  # the last is of the whole run
    again = recipes("random-real", artifact.folder.with_name("again"), *TINY, *AUTO, "--work", work)
    assert again.exception is None, again.exception
    assert Artifact.open(artifact.folder.with_name("again")).manifest.content == artifact.manifest.content


def test_labels_are_those_of_the_same_teachers(tmp_path: Path) -> None:
    """A coreset's candidates and the coreset itself; labels take their part of the bytes."""
    words = ["--policy", "random", "--protocol", "infer-static-50", "--label-bits", "4", *TINY]
    proxy = ["--candidates", "webp:0,webp:30", *PROXY[2:], "--proxy-seeds", "2"]
    done = recipes("coreset", tmp_path / "one", *words, "--encoding", "auto", *proxy)
    assert done.exception is None, done.exception
    m = Artifact.open(tmp_path / "one").manifest
    tried = Artifact.open(tmp_path / "one.work" / "candidates" / "webp-30").manifest
    assert m.teachers and tried.teachers == m.teachers and tried.labels == m.labels
    assert max(m.stored_bytes, tried.stored_bytes) <= int(BYTES)
    assert len(list((tmp_path / "one.work").glob("candidate-webp-30-*.safetensors"))) == 2
    won = m.recipe["run"]["encodings"]["chosen"]
    named = recipes("coreset", tmp_path / "named" / "one", *words, "--encoding", won)
    assert named.exception is None
    assert Artifact.open(tmp_path / "named" / "one").manifest.digest == m.digest


def test_a_candidate_that_takes_every_image_is_left_out(tmp_path: Path) -> None:
    cfg = replace(random_real.SMOKE, dataset="cifar10-mini/1900")
    run = Run(random_real, cfg, tmp_path / "one", device="cpu", encoding="webp:0")
    assert room(random_real, cfg, run, 20_000) == (10, True)
    assert room(random_real, cfg, run, 100) == (0, False)
    ipc, full = room(random_real, cfg, run, 4000)
    assert 0 < ipc < 10 and not full
    for size, reason in (("20000", "a class has no more images"), ("100", "the bytes hold not one image a class")):
        with pytest.raises(UsageError, match=rf"no candidate fills [\d,]+ bytes \({reason}\); name an --encoding"):
            found(random_real, cfg, run, size, Proxy(candidates=("webp:0",)))


def test_a_dry_run_tells_the_candidates_and_makes_nothing(tmp_path: Path) -> None:
    done = recipes("random-real", tmp_path / "one", *TINY, *AUTO, "--dry-run", "--machine", "h100")
    assert done.exception is None, done.exception
    for text in ("png", "webp-0", "webp-30"):
        (line,) = [x for x in done.output.splitlines() if x.startswith(f"candidate-{text} ")]
        assert line.split()[1] == f"{20 * 64:,}"  # twenty batches of infer-static
    assert "as if webp:0 were taken, the candidate of the most images: " in done.output
    assert not list(tmp_path.iterdir())


def test_what_auto_cannot_do_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg, proxy = random_real.SMOKE, Proxy()
    run = Run(random_real, cfg, tmp_path / "one", device="cpu")
    with pytest.raises(UsageError, match="for methods that store real images, and edf learns its own; name an enc"):
        found(edf, edf.SMOKE, run, BYTES, proxy)
    with pytest.raises(UsageError, match="holds images out, which folder:/x has no name for; name an encoding"):
        found(random_real, replace(cfg, dataset="folder:/x"), run, BYTES, proxy)
    with pytest.raises(UsageError, match="a class of cifar10-mini/1950 has 5; name an encoding"):
        found(random_real, replace(cfg, dataset="cifar10-mini/1950"), run, BYTES, proxy)
    with pytest.raises(UsageError, match="encoding 'jpeg:3' is not known"):
        Proxy(candidates=("jpeg:3",))
    with pytest.raises(UsageError, match="a search needs candidates, steps and seeds"):
        Proxy(steps=0)
    bare = recipes("random-real", tmp_path / "one", "--dataset", "cifar10-mini", "--encoding", "auto")
    assert "compares encodings at as many bytes; add --bytes N" in bare.output
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="is for one process; run it without torchrun, or name an encoding"):
        found(random_real, cfg, run, BYTES, proxy)


def test_the_proxy_keeps_the_form_of_the_protocol() -> None:
    """Its warm-up stays in proportion, and labels that are stored per view are asked for no other views."""
    source = open_source("cifar10-mini/1900")
    data = real_data(source, protocol("coreset"))  # 100 items are one step an epoch; 10 of 100 epochs warm up
    plan = search._plan(data, 40)
    assert (plan.epochs, plan.warmup) == (40, 4)
    assert (search._plan(data, 1).epochs, search._plan(data, 1).warmup) == (1, 0)
    stored = Logits(Spec(kind="soft"), torch.zeros(7, 100, 10))
    assert search._plan(real_data(source, protocol("infer-static", epochs=7)).using(labels=stored), 40).epochs == 7
    assert [Proxy().student(replace(source, images=torch.empty(1, 3, x, x))) for x in (28, 32, 64, 128, 224)] == [
        f"convnet{depth}-w32" for depth in (3, 3, 4, 5, 5)
    ]
    assert Candidate(encoding="png", skipped="x").text == "png: not tried, x"
