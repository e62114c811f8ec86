"""What each field of a manifest of format 1 must be.

One table, `RULES`: field -> (what it must be, in words; whether a value is that). A rule gets any
value that JSON can hold and never raises.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ddhub.artifact.encoding import is_encoding
from ddhub.io.rules import is_name, is_number

FORMAT = 1
# Paths inside a folder: parts that begin with a letter or a digit, so that none is `.` or `..` or leads elsewhere.
NAME_RULE = re.compile(r"(?=.{1,200}\Z)[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)*")
TENSOR_RULE = re.compile(r"[a-z0-9_.]{1,200}")
TENSORS = 64  # that one artifact may have
DIMENSIONS = 8  # that one tensor may have
DTYPE_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "F32"), 4),
    **dict.fromkeys(("I64", "F64"), 8),
}


def _all(fits: Callable[[Any], bool]) -> Callable[[object], bool]:
    return lambda values: isinstance(values, (tuple, list)) and all(map(fits, values))


def _all_values(fits: Callable[[Any], bool]) -> Callable[[object], bool]:
    return lambda record: isinstance(record, dict) and all(map(fits, record.values()))


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_word(value: Any) -> bool:
    """A text that tables repeat; what would steer a terminal is left out where it is printed."""
    return _is_text(value) and len(value) <= 200


def is_sha256(value: object) -> bool:
    """Whether a value is a SHA-256 as 64 lower-case hex digits."""
    return isinstance(value, str) and bool(re.fullmatch(r"[0-9a-f]{64}", value))


def _is_count(value: object) -> bool:
    return type(value) is int and value > 0


def _is_level(value: Any) -> bool:
    """A pixel's value in unit scale, far inside what float32 can hold."""
    return is_number(value) and bool(abs(value) <= 1000)


def _is_range(value: Any) -> bool:
    return _all(_is_level)(value) and len(value) == 2 and bool(value[0] < value[1])


def _is_classes(value: Any) -> bool:
    return _all(_is_word)(value) and 0 < len(value) <= 65536 and len(set(value)) == len(value)


def _is_size(value: Any) -> bool:
    return _all(_is_count)(value) and len(value) == 3 and value[0] in (1, 3)


def _is_dataset(value: Any) -> bool:
    """Whether a value names data without a path: a stranger's artifact must not say which folder is opened."""
    return _is_word(value) and not (value.startswith("folder:") and re.search(r"[/\\~]", value))


def _has_kind(value: object) -> bool:
    return isinstance(value, dict) and _is_text(value.get("kind"))


def is_recipe(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"repository", "path", "commit", "modules", "preset", "config", "seed", "run"}
        and _is_text(value["path"])
        and all(isinstance(value[key], str) for key in ("repository", "commit"))
        and _all_values(is_sha256)(value["modules"])
        and (value["preset"] is None or isinstance(value["preset"], str))
        and type(value["seed"]) is int
        and isinstance(value["config"], dict)
        and isinstance(value["run"], dict)
    )


def _is_source(value: Any) -> bool:
    keys = {"name", "hub_id", "split", "fingerprint", "notes", "license"}
    return _all_values(lambda text: isinstance(text, str))(value) and value.keys() == keys


def _is_tensor(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"dtype", "shape"}
        and isinstance(value["dtype"], str)
        and value["dtype"] in DTYPE_BYTES
        and _all(_is_count)(value["shape"])
        and len(value["shape"]) <= DIMENSIONS
    )


def _are_tensors(value: Any) -> bool:
    return (
        _all_values(_is_tensor)(value)
        and len(value) <= TENSORS + 2
        and all(TENSOR_RULE.fullmatch(name) for name in value)
    )


def _is_file(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"sha256", "bytes"}
        and is_sha256(value["sha256"])
        and type(value["bytes"]) is int
        and value["bytes"] >= 0
    )


def _are_files(value: Any) -> bool:
    return _all_values(_is_file)(value) and all(NAME_RULE.fullmatch(name) for name in value)


# field: (what it must be, whether a value is that)
RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "format": (str(FORMAT), lambda value: type(value) is int and value == FORMAT),
    "name": ("1 to 96 of a-z, 0-9, '.', '_', '-', a letter or digit first", is_name),
    "method": ("a text of 1 to 200 characters", _is_word),
    "dataset": ("a name of 1 to 200 characters, of a folder its last part alone", _is_dataset),
    "ipc": ("a positive integer", _is_count),
    "classes": ("1 to 65536 distinct names of 1 to 200 characters", _is_classes),
    "image_size": ("(1 or 3 channels, height, width)", _is_size),
    "mean": ("numbers from -1000 to 1000", _all(_is_level)),
    "std": ("numbers from 0.001 to 1000", _all(lambda value: _is_level(value) and value >= 0.001)),
    "pixel_range": ("pairs (low, high), low < high, from -1000 to 1000", _all(_is_range)),
    "encoding": ("png, webp or avif as ddhub writes them; for another codec: pip install -U ddhub", is_encoding),
    "decoder": ("an object with a 'kind'", _has_kind),
    "labels": ("an object with a 'kind'", _has_kind),
    "protocol": ("an object", _is_object),
    "recipe": ("repository, path, commit, modules {}, preset, config {}, seed (integer) and run {}", is_recipe),
    "source": ("texts name, hub_id, split, fingerprint, notes, license", _is_source),
    "teachers": ("a list of objects", _all(_is_object)),
    "license": ("a text, not empty", _is_text),
    "citation": ("a text", lambda value: isinstance(value, str)),
    "deviations": ("a list of texts", _all(_is_text)),
    "paper": ("a list of objects", _all(_is_object)),
    "tensors": (
        f"names of a-z, 0-9, '_', '.', at most {TENSORS} and the images, with dtype (of safetensors) and shape",
        _are_tensors,
    ),
    "content": ("64 hex digits, or '' where it was not recorded", lambda value: value == "" or is_sha256(value)),
    "files": ("paths of a-z, 0-9, '.', '_', '-' and '/' that lead nowhere else, with sha256 and bytes", _are_files),
}
