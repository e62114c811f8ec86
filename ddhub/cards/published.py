"""Accuracies at a size that papers report: the rows of `assets/published.toml`, copied and not repeated here.

    published("cifar10", "convnet3")[0].source          # 'Bao et al., 2025, arXiv 2507.17221'

They stand beside a frontier, never on it: protocols, copies of the data and ways to count differ from ours.
"""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_TABLE = tomllib.loads((Path(__file__).parents[1] / "assets" / "published.toml").read_text())
COUNTS: str = _TABLE["counts"]  # what the bytes of all of them are


@dataclass(frozen=True, kw_only=True)
class Published:
    """One accuracy, in percent, of a student on a data set, at `low` to `high` bytes a class."""

    method: str
    low: int
    high: int
    accuracy: float
    source: str

    @property
    def size(self) -> str:
        """'13,400', or '96,000 to 122,000'."""
        return f"{self.low:,}" + (f" to {self.high:,}" if self.high > self.low else "")

    def to_json(self) -> dict[str, Any]:
        """The point for `--json`, with what its bytes are, marked as copied."""
        return {**asdict(self), "counts": COUNTS, "copied": True}


def published(dataset: str, model: str) -> list[Published]:
    """The points of a data set and a student, the smallest first, then the best; [] where none is known."""
    points = [
        Published(
            method=row["method"],
            low=min(row["bytes"]),
            high=max(row["bytes"]),
            accuracy=row["accuracy"],
            source=_TABLE["sources"][row["method"]],
        )
        for row in _TABLE["points"].get(dataset, {}).get(model, [])
    ]
    return sorted(points, key=lambda point: (point.low, -point.accuracy))
