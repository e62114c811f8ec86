"""The site's templates: Jinja with autoescape, and no character that would turn the direction of a line.

    page("start.html", tiles=[])                # HTML

What comes from an artifact (names, classes, licences, citations) is text everywhere: it is escaped here, and nothing
but `ddhub.gallery` itself makes `Markup`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ddhub import __version__
from ddhub.cards.markdown import visible

# No other host, no inline script, no inline style: a text that breaks out of its place could still do nothing.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; "
    "object-src 'none'"
)


def page(template: str, root: str = "", **values: Any) -> str:
    """A page of the site; `root` leads from it to the site's start, such as '../'."""
    return _environment().get_template(template).render(root=root, policy=POLICY, version=__version__, **values)


def clean(value: object) -> object:
    """A value as templates print it: texts without control characters, line by line."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return "\n".join(map(visible, value.split("\n")))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        finalize=clean,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    environment.filters["size"] = lambda number: f"{number:,.0f}"
    environment.globals["plural"] = lambda number, noun: f"{number:,} {noun}{'' if number == 1 else 's'}"
    return environment
