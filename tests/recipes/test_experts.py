"""Expert trajectories: GSAM against loops over a net's parameters, experts side by side, interrupts, and bad files."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import forked
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ddhub.errors import ArtifactError, TrainingError, UsageError
from ddhub.sources.source import Source
from recipes.run.draws import generator
from recipes.run.teachers import real_data
from recipes.trajectories import experts as _experts
from recipes.trajectories.experts import Experts, direction, epoch, gradients, opened, settings, train
from recipes.trajectories.flat import Flat

CPU = torch.device("cpu")
HOW = Experts(net="convnet3-w4", count=3, epochs=2, batch=8, lr=0.05)


def source(fingerprint: str = "0") -> Source:
    """Random images of 3 classes and 8 px."""
    random = torch.Generator().manual_seed(3)
    return Source(
        name="random", address="random", split="train",
        images=torch.randint(256, (21, 3, 8, 8), dtype=torch.uint8, generator=random), labels=torch.arange(21) % 3,
        classes=("a", "b", "c"), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25),
        hub_id="", license="", notes="", fingerprint=fingerprint,
    )  # fmt: skip


def flat(how: Experts = HOW) -> Flat:
    return Flat(how.net, 3, 8, 3)


def trained(folder: Path, how: Experts = HOW) -> Tensor:
    return opened(train(source(), how, flat(how), folder / "experts.npy", CPU), how, flat(how), source())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experts")
    trained(folder)
    return folder


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    """The file of finished trajectories, a copy to be spoilt."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path / "experts.npy"


def look(path: Path, how: Experts = HOW, fingerprint: str = "0") -> Tensor:
    return opened(path, how, flat(how), source(fingerprint))


def stepped(how: Experts, w: Tensor, x: Tensor, labels: Tensor) -> Tensor:
    """The direction of GSAM, written out over the parameters of an ordinary net."""
    net = flat(how).load(w)

    def grads() -> list[Tensor]:
        return list(torch.autograd.grad(F.cross_entropy(net(x), labels), list(net.parameters())))

    def total(parts: list[Tensor]) -> float:
        return sum(float((part**2).sum()) for part in parts)

    old = [p.detach().clone() for p in net.parameters()]
    first = grads()
    if how.optimizer == "sgd":
        return torch.cat([g.flatten() for g in first])
    if how.adaptive:
        length = total([p.abs() * g for p, g in zip(old, first, strict=True)]) ** 0.5
        moves = [how.rho * p**2 * g / (length + 1e-12) for p, g in zip(old, first, strict=True)]
    else:
        moves = [how.rho * g / (total(first) ** 0.5 + 1e-12) for g in first]
    with torch.no_grad():
        for parameter, move in zip(net.parameters(), moves, strict=True):
            parameter.add_(move)
    second = grads()
    one, two = total(first) ** 0.5, total(second) ** 0.5
    dot = sum(float((g * h).sum()) for g, h in zip(first, second, strict=True))
    cosine = dot / (one * two + 1e-12)
    found = [h - how.alpha * (g - cosine * one * h / (two + 1e-12)) for g, h in zip(first, second, strict=True)]
    return torch.cat([d.flatten() for d in found])


@pytest.mark.parametrize("change", [{}, {"adaptive": False, "alpha": 1.0, "rho": 0.3}, {"optimizer": "sgd"}])
def test_a_step_is_that_of_the_papers_alone_and_side_by_side(change: dict[str, float]) -> None:
    how = replace(HOW, **change)  # type: ignore[arg-type]
    random = torch.Generator().manual_seed(1)
    w = torch.stack([flat().initial(k) for k in range(3)]).double()
    x = torch.randn(3, 8, 3, 8, 8, generator=random, dtype=torch.float64)
    labels = torch.randint(3, (3, 8), generator=random)
    wanted = torch.stack([stepped(how, w[k], x[k], labels[k]) for k in range(3)])

    def ours(rows: slice) -> Tensor:
        return direction(partial(gradients, flat(), x=x[rows], labels=labels[rows]), w[rows], how)

    assert torch.allclose(torch.cat([ours(slice(k, k + 1)) for k in range(3)]), wanted, rtol=1e-9, atol=1e-12)
    assert torch.allclose(ours(slice(0, 3)), wanted, rtol=1e-9, atol=1e-12)


def test_stacked_training_is_sequential_training(made: Path, tmp_path: Path) -> None:
    alone = look(made / "experts.npy")
    for together in (2, 3):
        stacked = trained(tmp_path / str(together), replace(HOW, together=together))
        moved = (alone[:, -1] - alone[:, 0]).norm(dim=1)
        assert float(((stacked - alone).norm(dim=2) / moved[:, None]).max()) < 1e-4


def test_a_trajectory_is_that_of_a_loop(made: Path) -> None:
    """All snapshots, from plain batches of one expert at a time; they are different ones."""
    found = look(made / "experts.npy")
    assert found.shape == (3, 3, flat().count) and found.dtype == torch.float32
    data = real_data(source(), _experts.batches(HOW))
    for expert in range(3):
        w = flat().initial(HOW.seed, "expert", expert)
        assert torch.equal(found[expert, 0], w)
        seed = generator(HOW.seed, "batches", expert).initial_seed()
        for number, (x, labels) in enumerate(data.batches(seed, epochs=2)):
            w = w - HOW.lr * stepped(HOW, w, x, labels)
            if number % 3 == 2:  # 21 images are 3 batches
                assert torch.allclose(found[expert, number // 3 + 1], w, rtol=1e-3, atol=1e-5)
    rows = found.flatten(0, 1)
    assert all(not torch.equal(rows[a], rows[b]) for a in range(9) for b in range(a))


def test_biases_before_a_norm_never_move(made: Path) -> None:
    """Nor do a student's: of both, CPD's squares are zero there, and nowhere else of a whole parameter."""
    found = look(made / "experts.npy")
    x, labels = torch.randn(1, 8, 3, 8, 8), torch.randint(3, (1, 8))
    student = found[:1, 0] - 0.1 * gradients(flat(), found[:1, 0], x, labels)
    for before, after in ((found[:, 0], found[:, 2]), (student, found[:1, 1])):
        for row in (after - before).square():
            zero = [bool((part == 0).all()) for part in flat().parts(row)]
            assert zero == 3 * [False, True, False, False] + [False, False]


def test_an_interrupted_run_goes_on_to_the_same_bytes(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in each epoch, once in the middle of writing, and resumed with other numbers side by side."""
    calls: list[tuple[tuple[int, ...], int]] = []

    def stop(data: object, experts: list[int], w: Tensor, number: int, *rest: object) -> Tensor:
        calls.append((tuple(experts), number))
        if len(calls) == 2:
            monkeypatch.setattr(_experts, "epoch", epoch)
            raise KeyboardInterrupt
        return epoch(data, experts, w, number, *rest)  # type: ignore[arg-type]

    for _ in range(6):
        calls.clear()
        monkeypatch.setattr(_experts, "epoch", stop)
        try:
            trained(tmp_path)
            break
        except KeyboardInterrupt:
            with pytest.raises(ArtifactError, match=r"experts.npy is not finished, \d of 3 experts are; the same comm"):
                look(tmp_path / "experts.npy")
            half = np.load(tmp_path / "experts.npy", mmap_mode="r+")
            half[2, 2, : flat().count // 2] = np.nan  # as if the last one had been killed while it was written
            del half
    assert (tmp_path / "experts.npy").read_bytes() == (made / "experts.npy").read_bytes()
    assert not (tmp_path / "experts.epochs").exists()


def test_the_seconds_are_those_of_all_runs_and_experts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An epoch of one expert takes 10 s here, one of two takes 20; the run is interrupted after two of four calls."""
    clock, calls = [0.0], []

    def timed(data: object, experts: list[int], *rest: object) -> Tensor:
        calls.append(experts)
        if len(calls) == 3:
            raise KeyboardInterrupt
        clock[0] += 10 * len(experts)
        return epoch(data, experts, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(_experts, "epoch", timed)
    monkeypatch.setattr(_experts.time, "perf_counter", lambda: clock[0])
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, replace(HOW, together=2))
    clock[0] += 1000
    trained(tmp_path, replace(HOW, together=2))
    assert json.loads((tmp_path / "experts.json").read_text())["seconds"] == 60.0


def test_what_is_there_is_not_made_again(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_experts, "epoch", lambda *_: pytest.fail("trained again"))
    assert train(source(), replace(HOW, together=2), flat(), copied, CPU) == copied


def test_the_size_is_said_before_anything_is_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 4 * 3 * 3 * flat().count
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(size, 0, size - 1))
    with caplog.at_level(logging.INFO), pytest.raises(UsageError, match="do not fit on the disk .* fewer experts"):
        trained(tmp_path)
    assert f"3 experts, 3 checkpoints each of {flat().count:,} parameters" in caplog.text
    assert not [*tmp_path.iterdir()]


def test_numbers_that_are_none_stop_and_what_came_before_is_kept(tmp_path: Path) -> None:
    how = replace(HOW, lr=1000.0)
    with pytest.raises(TrainingError, match=r"expert 0 is not a number after epoch \d \(gsam, lr 1000\); lower"):
        trained(tmp_path, how)
    found = np.load(tmp_path / "experts.npy")
    assert np.array_equal(found[0, 0], flat().initial(0, "expert", 0).numpy())


def _spoil(change: Callable[[np.ndarray], None]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        rows = np.load(path, mmap_mode="r+")
        change(rows)
        rows.flush()

    return spoil


def _facts(**changes: object) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        file = path.with_suffix(".json")
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return spoil


def _set(place: tuple[int, int, int], value: float) -> Callable[[Path], None]:
    return _spoil(lambda rows: rows.__setitem__(place, value))


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no file": (
        lambda p: p.unlink(),
        "is not there, but its description is; put the file back, or delete experts.json",
    ),
    "nothing": (lambda p: (p.unlink(), p.with_suffix(".json").unlink()), "there are no trajectories .*experts.npy"),
    "cut short": (lambda p: p.write_bytes(p.read_bytes()[:-7]), "cannot be read .* put the file back, or delete"),
    "empty": (lambda p: p.write_bytes(b""), "cannot be read"),
    "no table": (lambda p: p.write_bytes(b"x" * 400), "cannot be read"),
    "shape": (lambda p: np.save(p, np.zeros((3, 3, 5), np.float32)), r"is a table of float32 \[3, 3, 5\], not of"),
    "dtype": (lambda p: np.save(p, np.load(p).astype(np.float64)), r"is a table of float64 .* not of float32 \[3, 3, "),
    "columns": (lambda p: np.save(p, np.asfortranarray(np.load(p))), "is a table of"),
    "changed": (_set((1, 2, 3), 0.5), "is not as it was made: expert 1 has changed"),
    "nan": (_set((2, 1, 0), np.nan), "has numbers that are not finite, in checkpoint 1 of expert 2"),
    "other lr": (_facts(lr=0.1), r"is of other trajectories \(lr: 0.1, not 0.05\)"),
    "other net": (_facts(net="convnet3-w8"), r"is of other trajectories \(net: convnet3-w8, not convnet3-w4\)"),
    "other data": (_facts(data="1"), r"is of other trajectories \(data: 1, not 0\)"),
    "digests": (_facts(sha256=["0"]), "has a damaged experts.json"),
    "no facts": (lambda p: p.with_suffix(".json").write_text("{}"), "has a damaged experts.json"),
    "no json": (lambda p: p.with_suffix(".json").write_bytes(b"\xff"), "has a damaged experts.json"),
    "list": (lambda p: p.with_suffix(".json").write_text("[]"), "has a damaged experts.json"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_named(name: str, copied: Path) -> None:
    spoil, words = BAD[name]
    spoil(copied)
    with pytest.raises(ArtifactError, match=words) as error:
        look(copied)
    assert "\n" not in str(error.value)


def test_training_does_not_write_into_what_is_of_other_experts(copied: Path) -> None:
    before = copied.read_bytes()
    for how, data in ((replace(HOW, lr=0.1), source()), (HOW, source("1")), (replace(HOW, epochs=3), source())):
        with pytest.raises(ArtifactError, match="is of other trajectories"):
            train(data, how, flat(), copied, CPU)
    _facts(sha256=[])(copied)
    with pytest.raises(ArtifactError, match="has a damaged experts.json"):
        train(source(), HOW, flat(), copied, CPU)
    assert copied.read_bytes() == before


def test_a_damaged_count_of_an_unfinished_file_is_named(copied: Path) -> None:
    facts = json.loads(copied.with_suffix(".json").read_text())
    copied.with_suffix(".json").write_text(
        json.dumps({k: v for k, v in facts.items() if k not in ("sha256", "seconds")})
    )
    for bad in (None, [1, 2], [0, 0, 0], [0, 9, 0, 9, 4, 9], [0, 9, -1, 9, 0, 9]):
        if bad is not None:
            np.array(bad, np.int64).tofile(copied.with_suffix(".epochs"))
        with pytest.raises(ArtifactError, match="experts.epochs"):
            train(source(), HOW, flat(), copied, CPU)


def test_settings_are_what_trajectories_depend_on() -> None:
    assert settings(HOW) == settings(replace(HOW, together=2)) != settings(replace(HOW, rho=0.1))
    plain = replace(HOW, optimizer="sgd")
    assert settings(plain) == settings(replace(plain, rho=0.1, alpha=1.0, adaptive=False)) != settings(HOW)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"optimizer": "adam"}, "unknown optimizer of experts 'adam'"),
        ({"count": 0}, "count of the experts is 0; it must be 1 or more"),
        ({"epochs": 0}, "epochs of the experts is 0"),
        ({"together": -1}, "together of the experts is -1"),
        ({"lr": 0.0}, "lr of the experts is 0.0; it must be a finite number above 0"),
        ({"rho": float("nan")}, "rho of the experts is nan"),
    ],
)
def test_settings_that_cannot_be(change: dict[str, float], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        replace(HOW, **change)  # type: ignore[arg-type]


def test_ranks_share_the_experts(made: Path, tmp_path: Path) -> None:
    folders = [str(Path(__file__).parents[1] / name) for name in ("", "recipes", "training")]
    code = (
        f"import sys, torch\nsys.path[:0] = {folders!r}\n"
        "from pathlib import Path\nfrom ddhub.training import ranks\nimport test_experts\n"
        f"with ranks.group():\n    test_experts.trained(Path({str(tmp_path / 'work')!r}))\n"
    )
    done = forked.together(forked.ranks(2, "-c", code))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "work" / "experts.npy").read_bytes() == (made / "experts.npy").read_bytes()
