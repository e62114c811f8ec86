"""Output of the command line: lines, tables and JSON without control characters, and files written as a whole."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ddhub.errors import DDHubError
from ddhub.io.rules import CONTROL

if TYPE_CHECKING:
    from ddhub.artifact.results import Mean, Result


def printable(text: str) -> str:
    """The text without control characters, so that the contents of a file cannot control the terminal.

    Characters that change the direction of a line, or end it invisibly, are removed too.
    """
    return CONTROL.sub("", text)


def say(text: str, *, err: bool = False) -> None:
    """Print the text as one line, without control characters."""
    click.echo(printable(text.replace("\n", " ")), err=err)


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Columns as wide as their widest cell; those whose heading begins with '>' are aligned right."""
    lines = [[name.lstrip(">") for name in header], *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = zip(header, line, widths, strict=True)
        say("  ".join(c.rjust(w) if name.startswith(">") else c.ljust(w) for name, c, w in cells).rstrip())


def print_json(value: object) -> None:
    """JSON for other programs; control characters are escaped."""
    click.echo(json.dumps(value, indent=1))


def flat(value: object) -> str:
    """A value of a manifest as text: {"kind": "hard"} is `kind hard`."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {flat(item)}" for key, item in value.items())
    if isinstance(value, list):
        return " ".join(map(flat, value))
    return "none" if value in (None, "") else str(value)


def write(path: Path, data: bytes) -> None:
    """Write a file as a whole or not at all. DDHubError if it cannot be written."""
    from ddhub.io.files import replace_file

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, data)
    except OSError as error:
        raise DDHubError(f"{path}: cannot be written ({error.strerror}); free space or choose another folder") from None


def accuracy_text(mean: Mean) -> str:
    """'41.50 ± 1.80 (n = 3)', in a table with '%' in its heading."""
    return f"{mean.text} (n = {len(mean.runs)})"


def mean_text(mean: Mean) -> str:
    """'resnet18: 41.50 ± 1.80 % (n = 3) on CIFAR-10, 10,000 test images'."""
    return f"{mean.first.model}: {mean.text} % (n = {len(mean.runs)}) on {test_text(mean.first)}"


def test_text(result: Result) -> str:
    """'CIFAR-10, 10,000 test images'."""
    return f"{result.test}, {result.test_images:,} test images"
