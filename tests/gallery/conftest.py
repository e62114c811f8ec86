"""The site of the stock, built once a process, and what is read of its pages."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest
from hub.made import version

from ddhub.artifact import bundled
from ddhub.gallery.site import Built, build


class Page(HTMLParser):
    """A page as a reader without scripts has it: its elements, ids, links, and its text."""

    VOID = ("area", "base", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.broken: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if len({key for key, _ in attrs}) < len(attrs):
            self.broken.append(f"<{tag}> has an attribute twice")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open[-1] != tag:
            self.broken.append(f"</{tag}> where {self.open[-1:]} is open")
        else:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def ids(self) -> list[str]:
        return [facts["id"] for _, facts in self.elements if "id" in facts]

    def all(self, tag: str, key: str) -> list[str]:
        """The values of an attribute of elements that have it."""
        return [facts[key] for name, facts in self.elements if name == tag and key in facts]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The folder of one small artifact."""
    folder = tmp_path / "tiny"
    for name, data in version().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(scope="session")
def stock(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Built]:
    """The folder of the stock's site, and what building it did."""
    folder = tmp_path_factory.mktemp("gallery") / "site"
    return folder, build(folder, bundled.at_hand())


@pytest.fixture(scope="session")
def pages(stock: tuple[Path, Built]) -> dict[str, Page]:
    """The stock's pages by their paths."""
    folder, _ = stock
    return {str(path.relative_to(folder)): Page(path.read_text()) for path in sorted(folder.rglob("*.html"))}
