"""The public names of ddhub, from their signatures and docstrings: read by pdoc, shown in the site's own pages."""

from __future__ import annotations

import importlib
import inspect
import re
from dataclasses import dataclass
from typing import Any

import pdoc.doc
import pdoc.docstrings
import pdoc.render_helpers
from markupsafe import Markup

from ddhub.gallery.markup import code
from ddhub.gallery.templates import page

# The public names, as data: what is read here is what a user of ddhub sees.
_PUBLIC = importlib.import_module("ddhub")
_MORE = ("Artifact", "DistilledData", "Result", "open_source", "push")  # public, and rarely needed


@dataclass(frozen=True)
class Documented:
    """A function, class or method: its anchor, what is written to call it, and its docstring as HTML."""

    id: str
    name: str
    signature: str
    text: Markup
    members: list[Documented]


def reference() -> str:
    """The page reference/index.html."""
    first, _, example = (_PUBLIC.__doc__ or "").partition("\n")
    usual = [name for name in _PUBLIC.__all__ if not name.startswith("_")]
    return page(
        "reference.html",
        root="../",
        part="Reference",
        about=first.partition(": ")[2],
        example=code(example.strip(), "python"),
        groups=[("Public names", _named(usual)), ("More", _named(sorted({*_MORE} - {*usual})))],
    )


def _named(names: list[str]) -> list[Documented]:
    return [_documented(name, getattr(_PUBLIC, name)) for name in names]


def _documented(name: str, value: Any) -> Documented:
    place = (value.__module__, value.__qualname__)
    if not inspect.isclass(value):
        return _member(name, pdoc.doc.Function(*place, value, place))
    read = pdoc.doc.Class(*place, value, place)
    members = [_member(f"{name}.{x.name}", x) for x in read.own_members if x.name[0] != "_" and x.docstring]
    made = read.get("__init__")
    signature = (
        str(made.signature).replace("self, ", "")
        if isinstance(made, pdoc.doc.Function) and not issubclass(value, Exception)
        else ""
    )
    return Documented(name, name, signature, _html(inspect.getdoc(value) or ""), members)


def _member(name: str, read: pdoc.doc.Doc[Any]) -> Documented:
    signature = str(read.signature) if isinstance(read, pdoc.doc.Function) else ""
    return Documented(name, name, signature, _html(read.docstring), [])


def _html(docstring: str) -> Markup:
    """A docstring as HTML: it is ddhub's own, so that nothing in it is a stranger's."""
    made = pdoc.render_helpers.to_html(pdoc.docstrings.convert(docstring, "google", None))
    made = re.sub(r"<h6 id=[^>]*>(.*?)</h6>", r"<p><strong>\1</strong></p>", made)
    return Markup(
        re.sub(r"<pre>(?:<span></span>)?<code>", '<pre class="code" data-language="python" tabindex="0"><code>', made)
    )
