"""Many processes: what they tell one another, and runs of torchrun that are whole, stopped, killed and resumed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import forked
import pytest
import torch

from ddhub.artifact.folder import Artifact
from ddhub.errors import UsageError
from ddhub.training import ranks as _ranks
from recipes import infer
from recipes.run import stages
from recipes.run.run import Run

ROOT = Path(__file__).parents[2]


def torchrun(ranks: int, *words: str) -> subprocess.CompletedProcess[str]:
    """`torchrun --nproc-per-node RANKS ...`, one thread a process, on a port of its own."""
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), *words],
        cwd=ROOT, capture_output=True, text=True, timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def be(monkeypatch: pytest.MonkeyPatch, rank: int, world: int) -> None:
    """Set the environment of one rank."""
    for name, value in {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world}.items():
        monkeypatch.setenv(name, str(value))


def test_a_world_of_one_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    value = {"x": torch.ones(2)}
    with _ranks.group():
        assert (_ranks.rank(), _ranks.world(), _ranks.device("auto")) == (0, 1, "auto")
        assert _ranks.gather(_ranks.share("abc")) == ["a", "b", "c"]
        assert _ranks.broadcast(value, 0, torch.device("cpu")) is value
        _ranks.barrier()
    assert not torch.distributed.is_initialized()
    be(monkeypatch, 0, 1)  # torchrun --nproc-per-node 1
    assert _ranks.gather_all(5) == [5] and not torch.distributed.is_initialized()


@pytest.mark.parametrize(("count", "world"), [(0, 2), (1, 3), (7, 2), (7, 3), (8, 4)])
def test_gather_undoes_share(monkeypatch: pytest.MonkeyPatch, count: int, world: int) -> None:
    items, shares = list(range(count)), []
    for rank in range(world):
        be(monkeypatch, rank, world)
        shares.append(_ranks.share(items))
    assert sorted(item for own in shares for item in own) == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    monkeypatch.setattr(_ranks, "gather_all", lambda item: shares)
    assert _ranks.gather(shares[-1]) == items


def test_auto_is_the_gpu_of_the_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    be(monkeypatch, 1, 2)
    found = []
    for count in (0, 2):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        found.append(_ranks.device("auto"))
    assert found == ["cpu", "cuda:1"] and _ranks.device("cuda:0") == "cuda:0"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match="rank 1 has no GPU of its own, this machine has 1; use --nproc-per-node 1"):
        _ranks.device("auto")


def test_bytes_go_over_gpus_only_if_every_rank_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    be(monkeypatch, 1, 2)
    for device, other, wanted in (("cuda:1", True, "cuda:1"), ("cuda:1", False, "cpu"), ("cuda:0", True, "cpu")):
        monkeypatch.setattr(_ranks, "gather_all", lambda own, other=other: [other, own])
        assert _ranks.wire(torch.device(device)) == torch.device(wanted)


def test_importing_ranks_does_not_import_torch() -> None:
    code = "import sys, ddhub.training.ranks as r; r.share([1]); r.gather([1]); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_files_belong_to_who_has_them_and_the_others_are_taken_in_turn() -> None:
    assert stages.assign(["a", "b", "c", "d"], [set(), {"b"}]) == {"a": 0, "b": 1, "c": 1, "d": 0}
    assert stages.assign(["a", "b"], [{"a", "b"}, {"a", "b"}]) == {"a": 0, "b": 0}
    assert stages.assign(["a", "b", "a"], [set()] * 3) == {"a": 0, "b": 1}  # one file, one rank
    assert stages.assign(["a"], [set()] * 4) == {"a": 0}  # what a single stage is


TALK = """
import sys, torch
from ddhub.training import ranks
with ranks.group():
    me, last = ranks.rank(), ranks.world() - 1
    made = ranks.gather([n * n for n in ranks.share(range(5))])
    assert made == [0, 1, 4, 9, 16], made
    kinds = (torch.int16, torch.uint8, torch.float16, torch.bfloat16, torch.float64, torch.bool, torch.int64)
    tensors = {str(kind): torch.arange(-3, 3).reshape(2, 3).to(kind) for kind in kinds}
    tensors |= {"scalar": torch.tensor(7.5), "empty": torch.zeros(0, 3), "turned": torch.arange(6.0).view(2, 3).T}
    over = ranks.wire(torch.device("cpu"))
    found = ranks.broadcast(tensors if me == last else None, last, over)
    assert list(found) == list(tensors)
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value), name
    ranks.barrier()
if me == 0:
    print("told", torch.distributed.is_initialized())
ranks.leave(0)
"""

DIE = """
import os, sys
from ddhub.training import ranks
from ddhub.errors import TrainingError
try:
    with ranks.group():
        ranks.barrier()
        if ranks.rank():
            os.kill(os.getpid(), 9)
except TrainingError as error:
    sys.stderr.write(f"{error}\\n")
    ranks.leave(1)
"""


def test_ranks_tell_one_another_items_and_tensors() -> None:
    done = forked.together(forked.ranks(3, "-c", TALK))
    assert (done.returncode, done.stdout) == (0, "told False\n"), done.stderr


def test_a_rank_that_waits_for_a_dead_one_says_so_at_once() -> None:
    """Without torchrun, which would end the waiting rank too."""
    ranks = forked.ranks(2, "-c", DIE)
    assert [rank.returncode for rank in ranks] == [1, -9]
    assert "rank 0 lost touch with another rank, whose own error says why" in ranks[0].stderr


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smoke artifact of INFER made by one process, with its stages beside it."""
    out = tmp_path_factory.mktemp("alone") / "smoke"
    infer.distill(infer.SMOKE, Run(infer, infer.SMOKE, out, preset="smoke"))
    return out


def digest(folder: Path) -> str:
    """The digest of an artifact, whatever was committed while the tests ran."""
    m = Artifact.open(folder).manifest
    return replace(m, recipe={**m.recipe, "commit": ""}).digest


def units(out: Path) -> list[str]:
    """The stages that have a file."""
    return sorted(path.name.rpartition("-")[0] for path in out.with_name(f"{out.name}.work").glob("*.safetensors"))


SHARED = [f"{kind}-{name}" for kind in ("teacher", "compensators") for name in infer.SMOKE.teachers]


def test_two_ranks_stop_after_a_unit_and_then_make_the_artifact_of_one_process(alone: Path, tmp_path: Path) -> None:
    out, words = tmp_path / "smoke", ("-m", "recipes", "infer", str(tmp_path / "smoke"), "--preset", "smoke")
    stopped = torchrun(2, *words, "--until", SHARED[2])
    assert stopped.returncode == 0, stopped.stderr
    assert stopped.stdout == f"stopped after stage {SHARED[2]}; the same command without --until goes on from there\n"
    assert not out.exists() and units(out) == sorted(["select", *SHARED[:3]])
    done = forked.together(forked.ranks(2, *words))
    assert done.returncode == 0, done.stderr
    two, one = Artifact.open(out).manifest, Artifact.open(alone).manifest
    assert digest(out) == digest(alone) and two.recipe["run"]["ranks"] == 2
    assert done.stdout == f"{out}: digest {two.digest}, content {two.content}, {two.stored_bytes:,} stored bytes\n"
    assert units(out) == units(alone) and list(two.recipe["run"]["stages"]) == list(one.recipe["run"]["stages"])
    seconds = sum(stage["seconds"] for stage in two.recipe["run"]["stages"].values())
    assert two.recipe["run"]["seconds"] == pytest.approx(seconds, abs=0.06)
    log = (tmp_path / "smoke.work" / "log.txt").read_text()
    assert (
        log.count("smoke: preset smoke") == 2 and log.count("by rank 1") == 1
    )  # the second teacher; rank 0 alone logs
    started = re.findall(r"rank (\d): stage (\S+): starting", stopped.stderr + done.stderr)
    assert sorted(name for _, name in started) == units(alone)  # each unit once
    assert {("0", SHARED[0]), ("1", SHARED[1])} < set(started)


END = """
import os, sys
from ddhub.training import ranks
from ddhub.errors import TrainingError
from recipes import __main__
from recipes.run import stages
whole, (stage, how) = stages._result, sys.argv[1:3]
def dying(unit, *rest):
    if ranks.rank() == 1 and unit.name == stage:
        unit.fn()
        if how == "KILL":
            os.kill(os.getpid(), 9)
        raise TrainingError("the loss is not a number; lower --lr")
    return whole(unit, *rest)
stages._result = dying
sys.argv = ["recipes", "infer", sys.argv[3], "--preset", "smoke"]
__main__.main()
"""


@pytest.mark.parametrize("how", ["KILL", "raise"])
def test_a_dead_rank_ends_the_run_and_the_next_start_goes_on(how: str, alone: Path, tmp_path: Path) -> None:
    (tmp_path / "end.py").write_text(END)
    out = tmp_path / "smoke"
    died = torchrun(2, str(tmp_path / "end.py"), SHARED[3], how, str(out))
    assert died.returncode == 1 and not out.exists() and not died.stdout
    line = {"KILL": "(SIGKILL)", "raise": "error: the loss is not a number; lower --lr\n"}[how]
    assert line in died.stderr, died.stderr
    assert {"select", *SHARED[:2]} <= set(units(out)) and not {SHARED[3], "labels"} & set(units(out))
    if how == "KILL":
        done = forked.together(forked.ranks(2, "-m", "recipes", "infer", out, "--preset", "smoke"))
        assert done.returncode == 0, done.stderr
        assert f"stage {SHARED[1]}: starting" not in done.stderr
    else:  # one process goes on from what two began
        infer.distill(infer.SMOKE, Run(infer, infer.SMOKE, out, preset="smoke"))
    assert digest(out) == digest(alone)


def test_an_error_is_one_write_that_the_lines_of_another_rank_cannot_tear() -> None:
    ours, theirs = os.pipe2(os.O_DIRECT)  # a read of this pipe returns what one write wrote
    command = [sys.executable, "-m", "ddhub", "no-such-command"]
    assert subprocess.run(command, stderr=theirs, cwd=ROOT, timeout=120).returncode == 2
    os.close(theirs)
    assert re.fullmatch(rb"error: No such command .*\n", os.read(ours, 4096)) and not os.read(ours, 1)
    os.close(ours)


@pytest.mark.parametrize(("ranks", "done"), [(1, "said\nin the end\n"), (2, "said\n")])
def test_a_rank_leaves_at_once_with_what_it_said_and_its_code(ranks: int, done: str) -> None:
    code = "import atexit; from ddhub.training import ranks; atexit.register(print, 'in the end'); print('said')"
    environ = {**os.environ, "RANK": "0", "WORLD_SIZE": str(ranks)}
    found = subprocess.run(
        [sys.executable, "-c", f"{code}; ranks.leave(3)"], env=environ, capture_output=True, text=True
    )
    assert (found.returncode, found.stdout, found.stderr) == (3, done, "")
