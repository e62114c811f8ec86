"""Waits by place, and what a case reports of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any, TypeVar

from pretend.device import Wait, waits

_Result = TypeVar("_Result")
More = dict[str, list[Any]]  # place: [how many waits more, the lines and reasons]


class Waits:
    """How many there were at each place, and the lines and reasons."""

    def __init__(self, found: Iterable[Wait] = ()) -> None:
        self.found = list(found)

    def joined(self, more: Iterable[Wait]) -> Waits:
        return Waits([*self.found, *more])

    def __sub__(self, other: Waits) -> More:
        """The places that have another number of waits than in `other`."""
        mine, theirs = (Counter(one.place for one in each.found) for each in (self, other))
        return {
            place: [mine[place] - theirs[place], self._reasons(place) or other._reasons(place)]
            for place in sorted(mine | theirs)
            if mine[place] != theirs[place]
        }

    def _reasons(self, place: str) -> list[str]:
        return sorted({f"line {one.line}: {one.what}" for one in self.found if one.place == place})


def joined(*parts: More) -> More:
    """For each place the most that it has in one of the parts."""
    out: More = {}
    for part in parts:
        for place, (count, reasons) in part.items():
            if place not in out or abs(count) > abs(out[place][0]):
                out[place] = [count, reasons]
    return out


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a case found.

    Attributes:
        by_step, by_epoch: waits that a run with more steps has more, and one with more epochs or outer iterations.
        apart: largest difference of a number of the result from that of the CPU.
    """

    by_step: More
    by_epoch: More
    apart: float

    def record(self) -> dict[str, Any]:
        return asdict(self)


def counted(work: Callable[[], _Result]) -> tuple[_Result, Waits]:
    """The result of some work, and what it waited for."""
    waits.clear()
    result = work()
    return result, Waits(waits)


def set_small(module: ModuleType, name: str, value: int) -> None:
    """A module's constant for how much is done at a time, so small that little data make it many times."""
    assert isinstance(vars(module)[name], int), f"{module.__name__} has no {name} any more"
    setattr(module, name, value)
