"""Every recipe there is: found, planned, run, interrupted and resumed."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import forked
import pytest
import torch
from click.testing import CliRunner

import ddhub
from ddhub.artifact import bundled
from ddhub.artifact.folder import Artifact
from ddhub.artifact.manifest import Manifest
from ddhub.errors import UsageError
from ddhub.sources import source as sources
from recipes import __main__
from recipes.run import draws
from recipes.run.options import configure, discover, scaled
from recipes.run.run import Run

ROOT = Path(__file__).parents[2]
RECIPES = discover()


def command(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m recipes ...`, one thread, so that digests can be compared."""
    return forked.run("-m", "recipes", *words, env={**os.environ, **environment})


def digest(folder: Path) -> str:
    """The digest of an artifact, whatever was committed while the tests ran."""
    m = Artifact.open(folder).manifest
    return replace(m, recipe={**m.recipe, "commit": ""}).digest


def test_discover_finds_every_recipe() -> None:
    files = {path.stem.replace("_", "-") for path in (ROOT / "recipes").glob("[a-z]*.py")}
    assert set(RECIPES) == files == {"coreset", "edf", "infer", "nrr-dd", "random-real", "sre2l", "udd"}


class Smokes(dict[str, Path]):
    """Every recipe's smoke artifact, made by an uninterrupted run when it is first asked for."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self.factory = factory

    def __missing__(self, name: str) -> Path:
        self[name] = out = self.factory.mktemp("smoke") / "smoke"
        done = command(name, str(out), "--preset", "smoke")
        assert done.returncode == 0, done.stderr
        m = Artifact.open(out).manifest
        said = f"{out}: digest {m.digest}, content {m.content}, {m.stored_bytes:,} stored bytes"
        assert done.stdout.splitlines()[0] == said
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
        assert configure(RECIPES[name], preset, {}).ipc in (1, 2, 10, 33, 50, 100, 166, 394, 500, 1000, 1179)
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


# An interrupt is an exception, which takes the same way out of every stage; a kill leaves what that stage has on disk.
@pytest.mark.parametrize(("how", "stages"), [("SIGINT", STAGES[2:3]), ("SIGKILL", STAGES)])
def test_interrupted_in_each_stage_and_started_again_gives_the_same_digest(
    how: str, stages: list[str], finished: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "smoke"
    for stage in stages:
        died = forked.run("-c", KILL, stage, how, out)
        assert died.returncode == (130 if how == "SIGINT" else -signal.SIGKILL), died.stderr
        assert not out.exists()
        if how == "SIGINT":
            assert died.stderr.splitlines()[-1].startswith("interrupted; the same command again goes on")
    done = command("infer", str(out), "--preset", "smoke")
    assert done.returncode == 0, done.stderr
    assert digest(out) == digest(finished["infer"])


def test_kill_at_any_moment_leaves_no_half_artifact(finished: dict[str, Path], tmp_path: Path) -> None:
    out, work = tmp_path / "smoke", tmp_path / "smoke.work"
    for stages in (1, 3):  # it is killed somewhere after as many
        run = forked.start("-m", "recipes", "infer", out, "--preset", "smoke")
        while run.poll() is None and len([*work.glob("*.safetensors")]) < stages:
            time.sleep(0.02)
        run.kill()
        run.wait()
        if out.exists():
            Artifact.open(out)
    assert command("infer", str(out), "--preset", "smoke").returncode == 0
    assert digest(out) == digest(finished["infer"])


def test_until_stops_after_the_stage(tmp_path: Path) -> None:
    out = tmp_path / "smoke"
    done = command("infer", str(out), "--preset", "smoke", "--until", "select")
    assert done.returncode == 0 and "stopped after stage select" in done.stdout and not out.exists()
    done = command("random-real", str(out), "--preset", "smoke", "--until", "relabel")
    assert done.returncode == 2 and "unknown stage 'relabel'" in done.stderr


def test_stages_of_other_settings_are_not_reused(tmp_path: Path) -> None:
    recipe = RECIPES["random-real"]
    digests = set()
    for seed in (0, 1):
        cfg = configure(recipe, "smoke", {"seed": seed})
        digests.add(recipe.distill(cfg, Run(recipe, cfg, tmp_path / "out")).manifest.digest)
    assert len(digests) == 2


def test_stages_computed_on_another_machine_are_found_and_keep_its_facts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = RECIPES["random-real"]
    cfg = configure(recipe, "smoke", {})
    with monkeypatch.context() as patch:
        patch.setattr("recipes.run.run.describe", lambda device: "NVIDIA H100")
        patch.setattr("recipes.run.run.versions", lambda: "ddhub 0, torch 3")
        first = recipe.distill(cfg, Run(recipe, cfg, tmp_path / "out", precision="fp32")).manifest
    run = Run(recipe, cfg, tmp_path / "out", device="cpu", precision="bf16")
    monkeypatch.setattr("recipes.random_real.select", lambda *_: pytest.fail("computed again"))
    again = recipe.distill(cfg, run).manifest
    assert again.digest == first.digest and again.content == first.content
    facts = again.recipe["run"]
    stages = facts["stages"]
    assert stages == first.recipe["run"]["stages"] and stages.keys() == {"select"}
    machine = {"device": "NVIDIA H100", "precision": "fp32", "versions": "ddhub 0, torch 3"}
    assert {**stages["select"], "seconds": 0, "peak_bytes": 0} == {"seconds": 0, "peak_bytes": 0, **machine}
    assert type(stages["select"]["seconds"]) is float and type(stages["select"]["peak_bytes"]) is int
    assert (
        facts["precision"] == "bf16"
        and facts["device"].startswith("CPU")
        and f"torch {torch.__version__}" in (facts["versions"])
    )


def test_stages_are_keyed_by_name_settings_and_data(tmp_path: Path) -> None:
    recipe = RECIPES["random-real"]
    runs = [Run(recipe, recipe.SMOKE, tmp_path / "out", precision=precision) for precision in ("fp32", "bf16")]
    for run in runs:
        run.source("cifar10-mini", "train")
    one, other = runs
    assert one.path("x", {"a": 1}) == other.path("x", {"a": 1})
    other.train_source = replace(one.train_source, fingerprint="cafe")  # type: ignore[type-var]
    paths = {one.path("x", {"a": 1}), one.path("x", {"a": 2}), one.path("y", {"a": 1}), other.path("x", {"a": 1})}
    assert len(paths) == 4


def test_a_run_says_which_artifacts_at_hand_have_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled, "BUNDLED", tmp_path / "cards")

    def made(out: Path, *words: str) -> tuple[Manifest, list[str]]:
        line = ["random-real", str(out), "--preset", "smoke", *words]
        done = CliRunner().invoke(__main__.group(), line, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return Artifact.open(out).manifest, done.stdout.splitlines()

    twin, said = made(tmp_path / "twin")
    assert len(said) == 1  # nothing is at hand
    named, _ = made(tmp_path / "other" / "smoke", "--seed", "1")
    for folder in (tmp_path / "twin", tmp_path / "other" / "smoke"):
        shutil.copytree(folder, tmp_path / "cards" / folder.name)
    mine, said = made(tmp_path / "smoke")
    assert mine.content == twin.content != named.content and len({x.digest for x in (mine, twin, named)}) == 3
    assert said == [
        f"{tmp_path / 'smoke'}: digest {mine.digest}, content {mine.content}, {mine.stored_bytes:,} stored bytes",
        f"the same content as twin, digest {twin.digest}",
        f"other content than smoke, digest {named.digest}",
    ]


def test_the_readmes_recipe_runs_as_printed(tmp_path: Path) -> None:
    (text,) = re.findall(
        r"`recipes/class_mean\.py`:\n\n```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    )
    for part in ("ddhub", "recipes"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "recipes" / "class_mean.py").write_text(text)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)}

    def command(*words: str) -> str:
        line = [sys.executable, "-m", "recipes", "class-mean", "out/means", "--preset", "smoke", *words]
        done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=240, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "artifact: 30,730 raw bytes" in command("--dry-run") and not (tmp_path / "out").exists()
    said = command()
    artifact = Artifact.open(tmp_path / "out" / "means")
    m = artifact.manifest
    assert said.splitlines()[0].startswith(f"out/means: digest {m.digest}, content {m.content}, ")
    assert command() == said
    assert (m.method, m.dataset, m.ipc, m.recipe["preset"]) == ("class-mean", "cifar10-mini", 1, "smoke")
    assert m.recipe["modules"]["recipes/class_mean.py"] == hashlib.sha256(text.encode()).hexdigest()
    source = sources.open_source("cifar10-mini")
    rows = draws.select(source, 4, draws.generator(0, "select")).view(-1, 4)
    assert artifact.images().equal(source.images[rows].float().mean(1).round().byte())
    assert artifact.image_labels().tolist() == [*range(10)] and len(ddhub.load(artifact.folder)) == 10
    assert command("--pool", "2") != said  # an option made from the field


def test_the_card_says_what_was_scaled() -> None:
    recipe = RECIPES["infer"]
    lines = scaled(recipe, "cifar10-ipc10-cpu", recipe.PRESETS["cifar10-ipc10-cpu"])
    assert any(line.startswith("teacher_epochs is ") and line.endswith("has 200.") for line in lines)
    assert scaled(recipe, "cifar10-ipc10", recipe.Config()) == []


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
            ["random-real", "OUT", "--preset", "cifar10-ipc2"],
            2,
            "unknown preset 'cifar10-ipc2'; did you mean",
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
    assert (
        log.splitlines()[0].endswith("smoke: preset smoke") and "in place of" not in log
    )  # nothing else was asked for
    assert f"torch {torch.__version__}" in log and "stage labels:" in log


@pytest.mark.parametrize("name", RECIPES)
def test_no_option_stands_twice(name: str) -> None:
    """Neither a flag nor a name: UDD has a proxy of its own, beside that of a search for an encoding."""
    params = __main__.group().commands[name].params
    flags = [flag for param in params for flag in param.opts]
    names = [param.name for param in params if param.name != "precision"]  # --exact is one of its values
    assert len(flags) == len(set(flags)) and len(names) == len(set(names))


@pytest.mark.parametrize(("name", "of"), [("datm", "edf"), ("mtt", "edf"), ("idc", "udd"), ("rded", "nrr-dd")])
def test_a_method_among_the_presets_of_another_is_said_to_be(name: str, of: str) -> None:
    with pytest.raises(UsageError, match=f"method '{name}' is among the presets of {of}: ") as caught:
        CliRunner().invoke(__main__.group(), [name, "out/x"], catch_exceptions=False)
    words = shlex.split(str(caught.value).partition("python -m recipes ")[2])
    assert words[2:3] == ["--preset"] and words[3] in RECIPES[of].PRESETS
