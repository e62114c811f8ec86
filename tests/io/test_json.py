"""The text of a value: what Python's own writer makes of it."""

from __future__ import annotations

import json

from ddhub.io.json import indented, is_indented

VALUE = {
    "b": [1, -2.5, 1e300, -0.0, 2**63, [], {}, [[]], {"z": None, "y": [True, False]}],
    "a": {"ü\n": 'é"\\\x00\ud800', "": "", "t": (1, (2,))},
}


def test_indented_text_is_that_of_python() -> None:
    for value in (VALUE, {}, [], {"10": 1, "9": {"2": "3"}}, 1.5, "a"):
        assert indented(value) == json.dumps(value, sort_keys=True, indent=1)


def test_another_layout_of_the_same_value_is_noticed() -> None:
    text = indented(VALUE) + "\n"
    value = json.loads(text)
    assert is_indented(text.encode(), value)
    others = [text[:-1], f"{text}\n", text.replace("1e+300", "1E300"), json.dumps(VALUE, indent=1), json.dumps(value)]
    for other in others:
        assert json.loads(other) == value and not is_indented(other.encode(), value)
