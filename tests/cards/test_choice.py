"""How an encoding was chosen: a table on the card, of what the recipe wrote and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from test_results import tiny

from ddhub.artifact.results import Entry
from ddhub.cards.card import render

TRIED: dict[str, Any] = {
    "encoding": "webp:30",
    "ipc": 12,
    "bytes": 29870,
    "steps": 402,
    "accuracy": 31.256,
    "skipped": "",
}
LEFT: dict[str, Any] = {
    "encoding": "avif:20", "ipc": 0, "bytes": 0, "steps": 0, "accuracy": 0.0, "skipped": "a class has no more images",
}  # fmt: skip
FOUND: dict[str, Any] = {
    "held_out": "cifar10/5000", "model": "convnet3-w32", "chosen": "webp:30", "seeds": 1, "bytes": 30000,
    "candidates": [TRIED, LEFT],
}  # fmt: skip


def card(found: Any) -> str:
    m = tiny()
    return render(Entry(tiny(recipe={**m.recipe, "run": {**m.recipe["run"], "encodings": found}}), []))


def test_the_candidates_stand_on_the_card() -> None:
    text = card(FOUND)
    assert (
        "The encoding was chosen on held-out training images (cifar10/5000): the best for `convnet3-w32` (n = 1)"
        in text
    )
    assert "| **webp:30** | 12 | 29,870 | 402 | 31.26 |" in text
    assert "| avif:20 |  |  |  | not tried: a class has no more images |" in text


@pytest.mark.parametrize(
    "found",
    [
        None,
        [],
        "auto",
        {},
        {**FOUND, "candidates": {}},
        {**FOUND, "candidates": ["png"]},
        {**FOUND, "seeds": "1"},
        {**FOUND, "held_out": 3},
        {**FOUND, "candidates": [{**TRIED, "accuracy": "31"}]},
        {**FOUND, "candidates": [{**TRIED, "ipc": 1.5}]},
        {**FOUND, "candidates": [{"encoding": "png"}]},
    ],
)
def test_what_no_recipe_wrote_is_not_shown(found: Any) -> None:
    assert card(found) == card(None)


def test_nothing_breaks_out_of_the_table() -> None:
    text = card({**FOUND, "candidates": [{**TRIED, "encoding": "a|<b>\n# c", "skipped": ""}]})
    assert "| a\\|&lt;b> # c | 12 |" in text
