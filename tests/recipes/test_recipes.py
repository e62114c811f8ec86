"""Every recipe there is: found, planned, run, interrupted and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import ddhub
from ddhub.artifact.folder import Artifact
from ddhub.errors import UsageError
from recipes.run.options import configure, discover
from recipes.run.run import Run

ROOT = Path(__file__).parents[2]
RECIPES = discover()


def command(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m recipes ...`, one thread, so that digests can be compared."""
    return subprocess.run(
        [sys.executable, "-m", "recipes", *words],
        cwd=ROOT, capture_output=True, text=True, timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip


def test_discover_finds_every_recipe() -> None:
    files = {path.stem.replace("_", "-") for path in (ROOT / "recipes").glob("[a-z]*.py")}
    assert set(RECIPES) == files == {"edf", "infer", "nrr-dd", "random-real", "sre2l", "udd"}


class Smokes(dict[str, Path]):
    """Every recipe's smoke artifact, made by an uninterrupted run when it is first asked for."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self.factory = factory

    def __missing__(self, name: str) -> Path:
        self[name] = out = self.factory.mktemp("smoke") / "smoke"
        done = command(name, str(out), "--preset", "smoke")
        assert done.returncode == 0, done.stderr
        assert f"digest {Artifact.open(out).manifest.digest}" in done.stdout
        return out


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Smokes:
    return Smokes(tmp_path_factory)


@pytest.mark.parametrize("name", RECIPES)
def test_smoke_artifact_loads_and_trains(name: str, finished: dict[str, Path]) -> None:
    data = ddhub.load(finished[name])
    plan = replace(data.protocol, epochs=1)  # its own: labels stored per view belong to its views
    _, result = ddhub.train(data, "convnet3-bn-w8", protocol=plan, test="cifar10-mini", progress=False)
    assert result.test_images == 1000 and 0 < result.accuracy < 100


@pytest.mark.parametrize("name", RECIPES)
def test_plan_counts_the_bytes_that_the_artifact_has(name: str, finished: dict[str, Path], tmp_path: Path) -> None:
    recipe = RECIPES[name]
    run = Run(recipe, recipe.SMOKE, tmp_path / "x")
    plan = recipe.plan(recipe.SMOKE, run.source(recipe.SMOKE.dataset, "train"), run)
    artifact = Artifact.open(finished[name])
    assert plan.artifact_bytes == sum(artifact.bytes_by_tensor().values())
    stages = [path.name.rpartition("-")[0] for path in (finished[name].parent / "smoke.work").glob("*.safetensors")]
    assert sorted(stages) == sorted(step.stage for step in plan.steps)


@pytest.mark.parametrize("name", RECIPES)
def test_presets_and_dry_run(name: str, tmp_path: Path) -> None:
    for preset in RECIPES[name].PRESETS:
        assert configure(RECIPES[name], preset, {}).ipc in (1, 2, 10, 50, 100, 500, 1000)
    done = command(name, str(tmp_path / "dry"), "--preset", "smoke", "--dry-run")
    assert done.returncode == 0 and "bytes of images, tensors and labels" in done.stdout
    assert not list(tmp_path.iterdir())


def test_infer_labels_are_the_teachers_mean_logits_on_the_reconstructed_images(
    finished: dict[str, Path],
) -> None:
    data = ddhub.load(finished["infer"])
    work = finished["infer"].parent / "smoke.work"
    total = 0
    for name in RECIPES["infer"].SMOKE.teachers:
        from safetensors.torch import load_file

        state = load_file(next(work.glob(f"teacher-{name}-*.safetensors")))
        state.pop("test_accuracy")
        net = ddhub.models.build(name, classes=10)
        net.load_state_dict(state)
        x = data.normalize(data.decoder(torch.arange(len(data))))
        total = total + net.eval()(x).detach()
    torch.testing.assert_close(data.labels.logits.float(), total / 2, rtol=2e-3, atol=2e-3)


STAGES = [
    "select",
    *(f"{kind}-{net}" for kind in ("teacher", "compensators") for net in RECIPES["infer"].SMOKE.teachers),
    "labels",
]
KILL = """
import os, signal, sys
import recipes.__main__
from recipes.run.run import Run
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has its background jobs ignore it
stage, number = sys.argv[1], getattr(signal, sys.argv[2])
whole = Run.stage
def dying(self, name, fn, settings=None):
    def fatal():
        fn()
        os.kill(os.getpid(), number)
        return fn()
    return whole(self, name, fatal if name == stage else fn, settings)
Run.stage = dying
sys.argv = ["recipes", "infer", sys.argv[3], "--preset", "smoke"]
recipes.__main__.main()
"""


@pytest.mark.parametrize("how", ["SIGINT", "SIGKILL"])
def test_interrupted_in_each_stage_and_started_again_gives_the_same_digest(
    how: str, finished: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "smoke"
    for stage in STAGES:
        died = subprocess.run(
            [sys.executable, "-c", KILL, stage, how, str(out)],
            cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=240,
        )  # fmt: skip
        assert died.returncode == (130 if how == "SIGINT" else -signal.SIGKILL), died.stderr
        assert not out.exists()
        if how == "SIGINT":
            assert died.stderr.splitlines()[-1].startswith("interrupted; the same command again goes on")
    done = command("infer", str(out), "--preset", "smoke")
    assert done.returncode == 0, done.stderr
    assert Artifact.open(out).manifest.digest == Artifact.open(finished["infer"]).manifest.digest


def test_kill_at_any_moment_leaves_no_half_artifact(finished: dict[str, Path], tmp_path: Path) -> None:
    out, work = tmp_path / "smoke", tmp_path / "smoke.work"
    for stages in (1, 3):  # it is killed somewhere after as many
        run = subprocess.Popen(
            [sys.executable, "-m", "recipes", "infer", str(out), "--preset", "smoke"],
            cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        while run.poll() is None and len([*work.glob("*.safetensors")]) < stages:
            time.sleep(0.02)
        run.kill()
        run.wait()
        if out.exists():
            Artifact.open(out)
    assert command("infer", str(out), "--preset", "smoke").returncode == 0
    assert Artifact.open(out).manifest.digest == Artifact.open(finished["infer"]).manifest.digest


def test_until_stops_after_the_stage(tmp_path: Path) -> None:
    out = tmp_path / "smoke"
    done = command("infer", str(out), "--preset", "smoke", "--until", "select")
    assert done.returncode == 0 and "stopped after stage select" in done.stdout and not out.exists()
    done = command("random-real", str(out), "--preset", "smoke", "--until", "relabel")
    assert done.returncode == 2 and "no stage 'relabel'" in done.stderr


def test_stages_of_other_settings_are_not_reused(tmp_path: Path) -> None:
    recipe = RECIPES["random-real"]
    digests = set()
    for seed in (0, 1):
        cfg = configure(recipe, "smoke", {"seed": seed})
        digests.add(recipe.distill(cfg, Run(recipe, cfg, tmp_path / "out")).manifest.digest)
    assert len(digests) == 2


def test_the_card_says_what_was_scaled(tmp_path: Path) -> None:
    recipe = RECIPES["infer"]
    run = Run(recipe, recipe.PRESETS["cifar10-ipc10-cpu"], tmp_path / "x", preset="cifar10-ipc10-cpu")
    scaled = run.scaled()
    assert any(line.startswith("teacher_epochs is ") and line.endswith("has 200.") for line in scaled)
    assert Run(recipe, recipe.Config(), tmp_path / "y", preset="cifar10-ipc10").scaled() == []


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["infer", "OUT", "--ipc", "1", "--dataset", "cifar10-mini"], 2, "ipc 1 is too small for INFER"),
        (["random-real", "OUT", "--ipc", "201", "--dataset", "cifar10-mini"], 2, "has 200; lower --ipc"),
        (["random-real", "OUT", "--ipc", "0"], 2, "ipc is 0; it must be 1 or more"),
        (
            ["random-real", "OUT", "--dataset", "cifar11"],
            2,
            "unknown data set 'cifar11'; did you mean 'cifar10'",
        ),
        (
            ["random-real", "OUT", "--preset", "cifar10-ipc1"],
            2,
            "unknown preset 'cifar10-ipc1'; did you mean",
        ),
        (["random-real", "OUT", "--data", "nowhere"], 1, "pass --data ROOT or set DDHUB_DATA"),
        (["random-real", "Bad Name"], 2, "cannot name an artifact"),
        (["random-real", "OUT", "--device", "tpu"], 2, "device 'tpu' cannot be used"),
        (
            ["random-real", "OUT", "--protocol", "mine", "--dataset", "cifar10-mini"],
            2,
            "unknown protocol 'mine'",
        ),
        (["infr", "OUT"], 2, "No such command 'infr'"),
        (
            ["nrr-dd", "OUT", "--preset", "smoke", "--ipc", "4"],
            2,
            "16 are needed; raise --mipc or --top, or lower --ipc",
        ),
        (["nrr-dd", "OUT", "--preset", "smoke", "--teacher", "convnet3-w8"], 2, "a teacher without BatchNorm layers"),
        (["edf", "OUT", "--preset", "smoke", "--drop", "1"], 2, "drop is 1.0; it must be in [0, 1)"),
        (
            ["edf", "OUT", "--preset", "smoke", "--train-epochs", "1"],
            2,
            "need experts of 2 epochs, and train_epochs is 1; raise it, or lower --max-start-epoch",
        ),
        (
            ["infer", "OUT", "--preset", "smoke", "--lr", "1e30", "--precision", "fp32"],
            1,
            "not finite (lr 1e+30, fp32); lower --lr",
        ),
        (
            ["infer", "OUT", "--teachers", "resnet19", "--dataset", "cifar10-mini"],
            2,
            "unknown model 'resnet19'",
        ),
    ],
)
def test_bad_input_is_one_line_with_the_next_step(words: list[str], code: int, message: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = command(*[str(out) if word == "OUT" else word for word in words], DDHUB_DATA="")
    assert (done.returncode, message in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr and not out.exists()


def test_a_folder_that_is_no_artifact_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="exists and is not an artifact"):
        Run(RECIPES["random-real"], RECIPES["random-real"].SMOKE, tmp_path / "mine")


def test_log_names_config_device_and_versions(finished: dict[str, Path]) -> None:
    log = (finished["infer"].parent / "smoke.work" / "log.txt").read_text()
    config = json.loads(log.splitlines()[0].partition("smoke: ")[2])
    assert config["seed"] == 0 and config["dataset"] == "cifar10-mini"
    assert f"torch {torch.__version__}" in log and "stage labels:" in log
