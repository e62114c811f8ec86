"""JSON, strict in both directions: the one text of a value, and only values that have one.

canonical({"b": 1, "a": [1.5]})                      # '{"a":[1.5],"b":1}'
parse(b'{"a": 1, "a": 2}', "manifest.json")          # ArtifactError: manifest.json: not JSON (the key 'a' twice)

Python's own reader keeps the last of two values with one key, and takes NaN, and 1e999 as infinity.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

from ddhub.errors import ArtifactError, first_line

REPAIR = "download or regenerate the artifact"
DEPTH = 32  # of lists and objects in one another
KEY = 200  # characters of a key, which messages repeat
_ENCODER = json.JSONEncoder(sort_keys=True, allow_nan=False, separators=(",", ":"))


def canonical(value: object) -> str:
    """The one JSON text of a value: keys sorted, no spaces, ASCII. ArtifactError if none exists."""
    try:
        return _ENCODER.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        cause = f"not writable as JSON ({first_line(error)})"
        raise ArtifactError(f"{cause}; use texts, finite numbers, lists and objects") from None


def indented(value: object) -> str:
    """The JSON text of a value for people: keys sorted, a line an entry. ArtifactError if none exists.

    It is that of `json.dumps(value, sort_keys=True, indent=1)`, which is written in Python and three times as slow.
    """
    return _indented(json.loads(canonical(value)), "\n")


def is_indented(data: bytes, value: object) -> bool:
    """Whether the bytes of a file are the text of the value that was parsed from them, and a line's end."""
    return f"{_indented(value, chr(10))}\n".encode() == data


def _indented(value: Any, line: str) -> str:
    """The text of a parsed value; `line` is a line's end with the indent of the next."""
    below = f"{line} "
    if isinstance(value, dict) and value:
        entries = [f"{_ENCODER.encode(key)}: {_indented(item, below)}" for key, item in sorted(value.items())]
        return f"{{{below}{f',{below}'.join(entries)}{line}}}"
    if isinstance(value, list) and value:
        return f"[{below}{f',{below}'.join([_indented(item, below) for item in value])}{line}]"
    return repr(value) if type(value) in (int, float) else _ENCODER.encode(value)


def load(data: bytes) -> object:
    """The value in `data`, in which nothing is said twice, endless or unprintable.

    ValueError for bad UTF-8, NaN and 1e999, integers of more than 64 bits, a key twice or of more than 200
    characters, half a character, and what is nested more than 32 deep.
    """
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_finite,
            parse_float=_finite,
            parse_int=_integer,
        )
    except RecursionError as error:
        raise ValueError(first_line(error)) from None
    _check_tree(value)
    return value


def parse(data: bytes, subject: str) -> dict[str, Any]:
    """The JSON object in `data`. ArtifactError about `subject` for a list, and for all that `load` refuses."""
    try:
        value = load(data)
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{subject}: not UTF-8 (byte {error.start}); {REPAIR}") from None
    except ValueError as error:
        raise ArtifactError(f"{subject}: not JSON ({first_line(error)}); {REPAIR}") from None
    if not isinstance(value, dict):
        raise ArtifactError(f"{subject}: no JSON object but a {type(value).__name__}; {REPAIR}")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        [(key, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {key[:KEY]!r} twice")
    return record


def _integer(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= int(text) < 2**63:
        raise ValueError(f"an integer of {len(text)} digits, more than 64 bits")
    return int(text)


def _check_tree(value: object) -> None:
    """ValueError for a parsed value that is nested too deep, or has half a surrogate pair in a text."""
    level = [value]
    for _ in range(DEPTH):
        below: list[object] = []
        for item in level:
            if isinstance(item, str):
                item.encode()
            elif isinstance(item, dict):
                if max(map(len, item), default=0) > KEY:
                    raise ValueError(f"a key of more than {KEY} characters")
                below += [*item.keys(), *item.values()]
            elif isinstance(item, list):
                below += item
        if not below:
            return
        level = below
    raise ValueError(f"nested more than {DEPTH} deep")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:KEY]} is not a finite number")
    return value
