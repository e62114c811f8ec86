"""The one way to check a value that a user, a file or a table of settings gives.

require(is_whole(epochs) and epochs >= 1, "epochs", epochs, "1 or more")
# UsageError: epochs is 0; it must be 1 or more
"""

from __future__ import annotations

import re
import sys
from typing import get_args

from ddhub.errors import UsageError, shown


def is_name(value: object) -> bool:
    """Whether a value can name an artifact or a teacher: 1 to 96 of a-z, 0-9, '.', '_', '-', no sign first."""
    return isinstance(value, str) and bool(re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,95}", value))


# Characters that steer a terminal, change the direction of a line or end it unseen; and half characters.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def is_line(value: object, most: int = 200) -> bool:
    """Whether a value is a text of one line, 1 to `most` characters, with none that steers a terminal."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= most
        and not re.search(r"[\t\n]", value)
        and not CONTROL.search(value)
    )


def is_whole(value: object) -> bool:
    """Whether a value is a whole number, and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether a value is a finite number, and not a bool."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return bool(abs(value) <= sys.float_info.max)  # false for NaN and for 10**400


def require(fits: bool, name: str, value: object, allowed: str) -> None:
    """UsageError "NAME is VALUE; it must be ALLOWED" unless the value fits."""
    if not fits:
        raise UsageError(f"{name} is {shown(value)}; it must be {allowed}")


def one_of(name: str, value: object, kind: object) -> None:
    """UsageError unless the value is one of those that the Literal `kind` lists."""
    require(value in get_args(kind), name, value, f"one of {', '.join(get_args(kind))}")


def whole_within(name: str, value: object, low: int, high: int, kind: str = "a whole number") -> None:
    """UsageError unless the value is a whole number from `low` to `high`."""
    require(is_whole(value) and low <= value <= high, name, value, f"{kind} from {low:,} to {high:,}")  # type: ignore[operator]


def within(name: str, value: object, low: float, high: float, allowed: str) -> None:
    """UsageError unless the value is a number from `low` to `high`."""
    require(is_number(value) and low <= value <= high, name, value, allowed)  # type: ignore[operator]
