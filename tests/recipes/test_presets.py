"""Presets: tables of settings, the Configs that names stand for, and the bounds of a setting."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import forked
import pytest

from ddhub.errors import UsageError
from recipes.run.options import check_options, configure, discover, option, option_fields
from recipes.run.presets import Presets, read_presets

ROOT = Path(__file__).parents[2]
RECIPES = discover()
# For each method, name -> the first 12 hex digits of the sha256 of its Config, as it was when presets were Python.
BEFORE = json.loads((ROOT / "tests" / "recipes" / "presets.json").read_text())


# Fields that a Config got later: where they are at their defaults they change nothing.
YOUNGER = {
    "udd": ("size", "codec_every"),
    "edf": ("expert_batch", "codec_every"),
    "sre2l": ("codec_every",),
    "nrr_dd": ("codec_every",),
}


def mark(cfg: Any) -> str:
    old = YOUNGER.get(type(cfg).__module__.rpartition(".")[2], ())
    told = {key: value for key, value in asdict(cfg).items() if key not in old or value != getattr(type(cfg), key)}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


@pytest.mark.parametrize("method", BEFORE)
def test_every_name_stands_for_the_settings_that_it_always_had(method: str) -> None:
    recipe = RECIPES[method.replace("_", "-")]
    # Those of the tier gpu are guesses until they have run.
    kept = [name for name, (_, _, tier) in recipe.PRESETS.names.items() if tier != "gpu"]
    now = {name: mark(recipe.PRESETS[name]) for name in kept} | {"smoke": mark(recipe.SMOKE)}
    assert now == BEFORE[method]
    assert mark(configure(recipe, "smoke", {})) == now["smoke"]


def test_there_are_413_of_them() -> None:
    assert sum(len(names) - 1 for names in BEFORE.values()) == 413


@pytest.mark.parametrize("method", RECIPES)
def test_the_help_of_a_method_is_one_screen(method: str) -> None:
    done = forked.run("-m", "recipes", method, "--help", env={**os.environ, "COLUMNS": "80"})
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and 20 < len(lines) <= 84 and max(map(len, lines)) <= 80
    for name in asdict(RECIPES[method].Config()):
        assert any(line.strip().startswith(f"--{name.replace('_', '-')} ") for line in lines), name


def test_all_names_can_be_listed() -> None:
    done = forked.run("-m", "recipes", "sre2l", "--presets")
    assert done.stdout.split() == [*RECIPES["sre2l"].PRESETS, "smoke"]


@dataclass(frozen=True, kw_only=True)
class Config:
    dataset: str = "cifar10"
    ipc: int = 10
    lr: float = option(0.5, "learning rate", over=0, high=1)
    steps: int = option(3, "steps", low=1)
    share: float = option(0.1, "share", low=0, under=1)
    labels: str = option("hard", "labels", choices=("hard", "soft"))
    flip: bool = option(False, "flips")
    nets: tuple[str, ...] = option(("a", "b"), "nets")


TABLE = """
[[rows]]
lr = 1
columns = ["dataset", "ipc", "steps"]
values = [["cifar10", 1, 4], ["cifar10", 10, 5], ["svhn", 10, 6]]

[row.svhn-ipc10]
nets = ["c"]

[variant.soft]
rows = ["cifar10-*"]
labels = "soft"
steps = 7

[variant.soft.row."cifar10-ipc1 svhn-*"]
steps = 8

[variant.other]
name = "other-{row}{tier}"
without = ["*-ipc1"]
tiers = ["cpu"]
flip = true

[tier.cpu]
steps = 1

[tier.cpu.row."cifar10-ipc1"]
lr = 0.25

[tier.gpu]
rows = ["svhn-*"]
steps = 2

[smoke]
steps = 9

[deviations]
all = ["one"]
"""


@pytest.fixture
def presets(tmp_path: Path) -> Presets:
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "made.toml").write_text(TABLE)
    return read_presets(str(tmp_path / "made.py"), Config())


def test_names_are_rows_with_variants_and_tiers(presets: Presets) -> None:
    assert set(presets) == {
        *("cifar10-ipc1", "cifar10-ipc1-soft", "cifar10-ipc1-cpu", "cifar10-ipc1-soft-cpu"),
        *("cifar10-ipc10", "cifar10-ipc10-soft", "cifar10-ipc10-cpu", "cifar10-ipc10-soft-cpu"),
        *("svhn-ipc10", "svhn-ipc10-cpu", "svhn-ipc10-gpu", "other-cifar10-ipc10-cpu", "other-svhn-ipc10-cpu"),
    }
    assert len(presets) == 13


def test_settings_of_a_row_give_way_to_the_variants_and_those_to_the_tiers(presets: Presets) -> None:
    one = replace(Config(), ipc=1, lr=1.0, steps=4)
    assert presets["cifar10-ipc1"] == one and isinstance(presets["cifar10-ipc1"].lr, float)
    assert presets["cifar10-ipc1-soft"] == replace(one, labels="soft", steps=8)
    assert presets["cifar10-ipc1-soft-cpu"] == replace(one, labels="soft", steps=1, lr=0.25)
    assert presets["cifar10-ipc10-soft"] == replace(one, ipc=10, labels="soft", steps=7)
    svhn = replace(Config(), dataset="svhn", ipc=10, lr=1.0, steps=6, nets=("c",))
    assert presets["svhn-ipc10"] == svhn and presets["svhn-ipc10-gpu"] == replace(svhn, steps=2)
    assert presets["other-svhn-ipc10-cpu"] == replace(svhn, flip=True, steps=1)
    assert presets.smoke == replace(Config(), steps=9) and presets.deviations == {"all": ["one"]}


def test_the_full_form_of_a_tier(presets: Presets) -> None:
    assert presets.full("cifar10-ipc1-cpu") == "cifar10-ipc1"
    assert presets.full("cifar10-ipc1-soft-cpu") == "cifar10-ipc1-soft"
    assert presets.full("other-svhn-ipc10-cpu") == "svhn-ipc10"  # there is none without the tier
    assert presets.full("cifar10-ipc1") == presets.full("else") == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0}, "lr is 0; it must be in (0, 1]"),
        ({"lr": 1.5}, "lr is 1.5; it must be in (0, 1]"),
        ({"lr": float("nan")}, "lr is nan; it must be a finite number"),
        ({"steps": 0}, "steps is 0; it must be 1 or more"),
        ({"steps": 2.5}, "steps is 2.5; it must be a whole number"),
        ({"steps": True}, "steps is True; it must be a whole number"),
        ({"share": 1}, "share is 1; it must be in [0, 1)"),
        ({"labels": "sft"}, "unknown labels 'sft'; did you mean 'soft'"),
        ({"flip": 1}, "flip is 1; it must be true or false"),
        ({"nets": "a"}, "nets is 'a'; it must be a list of texts"),
        ({"dataset": 3}, "dataset is 3; it must be a text"),
    ],
)
def test_a_setting_out_of_its_bounds_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_options(replace(Config(), **change))
    assert str(caught.value).startswith(message)


def test_settings_within_their_bounds() -> None:
    for change in ({"lr": 1}, {"share": 0}, {"share": 0.999}, {"steps": 1}, {"labels": "soft"}, {"nets": ()}):
        check_options(replace(Config(), **change))


@pytest.mark.parametrize("method", RECIPES)
def test_helps_are_phrases_that_a_stranger_understands(method: str) -> None:
    for _, name, _, text in option_fields(RECIPES[method]):
        assert text and not text.startswith("of ") and not text.endswith("."), name
