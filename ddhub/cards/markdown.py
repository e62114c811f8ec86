"""Markdown that nothing from outside can break out of: texts, tables, code blocks.

table("student|accuracy %", [("resnet18", "39.97 ± 0.81")])
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def every(values: Iterable[str]) -> str:
    """The different values, in the order of their first appearance."""
    return ", ".join(dict.fromkeys(values))


def table(columns: str, rows: Iterable[Sequence[object]]) -> str:
    """A table; `columns` are joined by `|`."""
    head = columns.split("|")
    lines = [head, ["---"] * len(head), *([text(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def text(value: object) -> str:
    """A value as one line of Markdown that opens no table cell and no HTML tag."""
    return visible(" ".join(str(value).split())).replace("|", "\\|").replace("<", "&lt;")


def code(language: str, lines: Iterable[str]) -> str:
    """A code block, with a fence longer than any in the text: a citation is someone else's."""
    inside = "\n".join(map(visible, lines))
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", inside)), default=0))
    return f"{fence}{language}\n{inside}\n{fence}"


def visible(value: str) -> str:
    """A line without control characters, and without those that turn its direction."""
    return value if value.isprintable() else "".join(x for x in value if x.isprintable())
