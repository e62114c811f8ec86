"""The label scheme of an artifact in words, for its card; nothing here imports torch."""

from __future__ import annotations

import math

from ddhub.artifact.fields import DTYPE_BYTES
from ddhub.artifact.manifest import Manifest
from ddhub.cards.markdown import text

_TENSORS = {"dbr": "labels.distances", "soft": "labels.logits", "top1": "labels.top1"}
_STORED = {
    "dbr": "two distances an item",
    "soft": "the logits of an item",
    "top1": "the likeliest class of an item and its probability",
}


def labels(m: Manifest) -> str:
    """'soft, label temperature 30.0'; where labels are stored per view, for how many epochs and by which options."""
    kind, temperature = text(m.labels["kind"]), m.labels.get("temperature")
    names = ", ".join(str(x["name"]) for x in m.labels.get("teachers", []))
    kind += f" ({text(names)})" if names else ""
    stored = per_view(m)
    kind += f" ({stored})" if stored else ""
    return kind if temperature is None else f"{kind}, label temperature {text(temperature)}"


def per_view(m: Manifest) -> str:
    """What is stored for every view; empty for labels that are not stored per view."""
    name = m.labels["kind"]
    shape = m.tensors.get(_TENSORS.get(name, ""), {}).get("shape", [])
    if not shape or (name == "soft" and len(shape) == 2):
        return ""
    often = "their mean over the views" if m.labels.get("once") else f"stored for the views of {shape[0]} epochs"
    keys = [key for key in ("seed", "reading", "loss", "distance", "weight") if key in m.labels]
    return "; ".join([f"{_STORED[name]}, {often}", *(f"{key} {text(m.labels[key])}" for key in keys)])


def short(m: Manifest) -> str:
    """The label scheme in a cell of a table: 'hard', 'dbr', 'dbr once', 'dbr kd', 'soft per view'."""
    words = [str(m.labels["kind"])]
    words += ["once"] if m.labels.get("once") else []
    words += ["kd"] if m.labels.get("loss") == "kd" else []
    words += ["per view"] if words == ["soft"] and per_view(m) else []
    return " ".join(words)


def label_bytes(m: Manifest) -> int:
    """Raw bytes of the stored labels, without the classes."""
    stored = (x for name, x in m.tensors.items() if name.startswith("labels."))
    return sum(DTYPE_BYTES[x["dtype"]] * math.prod(x["shape"]) for x in stored)
