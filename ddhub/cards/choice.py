"""How an encoding was chosen: the candidates of `--encoding auto`, as they stand on a card.

The table lies among the facts of a run, `recipe["run"]["encodings"]`, which no rule of the format holds to a form: what
is not as `recipes.run.search` writes it is not shown. Nothing here imports torch.
"""

from __future__ import annotations

from typing import Any

from ddhub.artifact.manifest import Manifest
from ddhub.cards.markdown import table, text
from ddhub.io.rules import is_number, is_whole

_TEXTS, _NUMBERS = ("held_out", "model", "chosen"), ("seeds", "bytes")


def choice(m: Manifest) -> list[str]:
    """The sentence and the table of the candidates; nothing where the encoding was named."""
    found = m.recipe["run"].get("encodings")
    if not _is_search(found):
        return []
    rows = []
    for x in found["candidates"]:
        name = f"**{x['encoding']}**" if x["encoding"] == found["chosen"] else x["encoding"]
        if x["skipped"]:
            rows.append((name, "", "", "", f"not tried: {x['skipped']}"))
        else:
            rows.append((name, x["ipc"], f"{x['bytes']:,}", f"{x['steps']:,}", f"{x['accuracy']:.2f}"))
    head = (
        f"The encoding was chosen on held-out training images ({text(found['held_out'])}): the best for "
        f"`{text(found['model'])}` (n = {found['seeds']}) among sets of at most {found['bytes']:,} bytes. Test images "
        "played no part."
    )
    return [head, table("encoding|images a class|bytes|steps|held-out accuracy %", rows)]


def _is_search(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("candidates"), list):
        return False
    texts = all(isinstance(value.get(key), str) for key in _TEXTS)
    return texts and all(is_whole(value.get(key)) for key in _NUMBERS) and all(map(_is_candidate, value["candidates"]))


def _is_candidate(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and all(isinstance(value.get(key), str) for key in ("encoding", "skipped"))
        and all(is_whole(value.get(key)) for key in ("ipc", "bytes", "steps"))
        and is_number(value.get("accuracy"))
    )
