"""The stock's site in a real browser: every page, filters, comparison, copying, keyboard, widths, and what axe finds.

Skipped where there is no Chromium (`apt-get install chromium`) or no Playwright (`pip install 'ddhub[dev]'`).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ddhub.artifact import bundled
from ddhub.gallery.serving import server
from ddhub.gallery.site import Built

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install 'ddhub[dev]'")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path: apt-get install chromium")

WIDTHS = (390, 768, 1280)
NAMES = ("cifar10-infer-ipc10", "cifar10-random-ipc10")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])  # CI runs as root
        yield started
        started.close()


@pytest.fixture(scope="module")
def address(stock: tuple[Path, Built]) -> Iterator[str]:
    with server(stock[0]) as (found, _):
        yield found


def opened(browser: Any, **options: Any) -> Any:
    """A context of the browser, with time for a machine on which much else runs."""
    context = browser.new_context(**options)
    context.set_default_timeout(120_000)
    return context


class Visit:
    """A page of the site, which fails the test at its end if anything went wrong in it."""

    def __init__(self, context: Any, address: str) -> None:
        self.page, self.address, self.wrong = context.new_page(), address, list[str]()
        self.page.on("console", lambda x: self.wrong.append(x.text) if x.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("requestfailed", self._failed)
        self.page.on("response", lambda x: self.wrong.append(f"{x.status}: {x.url}") if x.status >= 400 else None)
        self.page.on("request", lambda x: x.url.startswith(address) or self.wrong.append(f"asked: {x.url}"))

    def _failed(self, request: Any) -> None:
        if request.failure != "net::ERR_ABORTED":  # by leaving the page
            self.wrong.append(f"{request.failure}: {request.url}")

    def go(self, path: str) -> Any:
        self.page.goto(self.address + path)
        return self.page


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Visit]:
    context = opened(browser, viewport={"width": 1280, "height": 900})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    visit = Visit(context, address)
    yield visit
    context.close()
    assert visit.wrong == []


def until(locator: Any) -> Any:
    """What is expected of an element, at last: a function that the page evaluates would break the site's policy."""
    return playwright.expect(locator)


def tiles(page: Any) -> list[str]:
    return page.eval_on_selector_all(".tile:not([hidden])", "tiles => tiles.map(x => x.dataset.name)")  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["of artifacts with images", "of results", "others"])
def test_every_page_loads_and_fits_three_widths(visit: Visit, stock: tuple[Path, Built], kind: str) -> None:
    kept = {f"artifacts/{name}.html" for name in bundled.names()}
    pages = {name for name in stock[1].files if name.endswith(".html")}
    results = {name for name in pages - kept if name.startswith("artifacts/")}
    for name in sorted({"of artifacts with images": kept, "of results": results}.get(kind, pages - kept - results)):
        page = visit.go(name)
        page.evaluate("document.querySelectorAll('img').forEach(x => { x.loading = 'eager' })")
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (name, width)
        assert page.evaluate("[...document.images].every(x => x.alt || x.getAttribute('aria-hidden'))"), name
        assert visit.wrong == [], name


def test_filters_change_the_tiles_and_the_address_and_survive_a_reload(visit: Visit) -> None:
    page = visit.go("index.html")
    everything = tiles(page)
    page.select_option("#filter [name=data]", "cifar10")
    page.select_option("#filter [name=ipc]", "10")
    page.fill("#filter [name=bytes]", "100000")
    assert tiles(page) == ["cifar10-idc-ipc10-avif50"]
    assert "data=cifar10" in page.url and "ipc=10" in page.url and "bytes=100000" in page.url
    page.reload()
    assert tiles(page) == ["cifar10-idc-ipc10-avif50"]
    assert page.text_content("#count").startswith("1 of ")
    page.click("#filter button[type=reset]")
    until(page.locator(".tile:not([hidden])")).to_have_count(page.locator(".tile").count())
    assert len(tiles(page)) > len(everything) and "bytes" not in page.url


def test_search_student_and_sort(visit: Visit) -> None:
    page = visit.go("index.html?student=resnet18&sort=accuracy")
    assert tiles(page)[:2] == ["cifar10-infer-ipc10", "cifar10-random-ipc10"]
    assert "39.97 ± 0.81 %" in page.text_content(".tile:not([hidden]) .best")
    page.fill("#filter [name=q]", "RANDOM cifar-10")
    assert tiles(page) == ["cifar10-random-ipc10"]
    page.fill("#filter [name=q]", "")
    page.select_option("#filter [name=student]", "")
    page.select_option("#filter [name=sort]", "bytes")
    sizes = page.eval_on_selector_all(".tile:not([hidden])", "tiles => tiles.map(x => Number(x.dataset.bytes))")
    assert sizes == sorted(sizes) and len(sizes) > 10


def test_a_chart_is_chosen_and_stays_chosen(visit: Visit) -> None:
    page = visit.go("index.html")
    assert page.locator("figure.chart:visible").count() == 1
    page.select_option("[name=chart-data]", "Imagenette")
    assert "Imagenette" in page.text_content("figure.chart:visible figcaption")
    page.select_option("[name=chart-protocol]", index=1)
    title = page.text_content("figure.chart:visible figcaption")
    assert "all under protocol" in title
    page.reload()
    assert page.text_content("figure.chart:visible figcaption") == title


def test_a_point_is_a_link_that_the_keyboard_reaches(visit: Visit) -> None:
    page = visit.go("index.html")
    mark = page.locator("figure.chart:visible a.mark").first
    mark.focus()
    name = mark.get_attribute("data-name")
    assert name in page.text_content(".tip") and page.is_visible(".tip")
    assert name in mark.get_attribute("aria-label") and "n = " in mark.get_attribute("aria-label")
    page.keyboard.press("Escape")
    assert page.is_hidden(".tip")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/artifacts/{name}.html")


def test_chosen_artifacts_are_compared(visit: Visit) -> None:
    page = visit.go("index.html")
    for name in NAMES:
        page.check(f".pick[value={name}]")
    assert page.text_content("#basket span") == "2 chosen"
    page.click("#basket a")
    page.wait_for_url("**/compare.html?names=*")
    heads = page.locator("#side thead th").all_text_contents()
    assert sorted(heads) == sorted(NAMES)
    rows = page.eval_on_selector_all(
        "#results tr[data-name]", "rows => rows.filter(x => x.offsetParent).map(x => x.dataset.name)"
    )
    assert {*rows} == {*NAMES} and rows.count(NAMES[0]) == rows.count(NAMES[1])
    assert page.locator("#by-class tbody tr").count() == 10
    assert page.locator("#by-class svg.cells").count() == 20
    page.fill("#choose [name=name]", "cifar10-idc-ipc10")
    page.press("#choose [name=name]", "Enter")
    assert page.locator("#side thead th").count() == 3 and "cifar10-idc-ipc10" in page.url
    page.reload()
    assert page.locator("#side thead th").count() == 3
    page.click("[aria-label='Remove cifar10-idc-ipc10']")
    assert page.locator("#side thead th").count() == 2
    visit.go("compare.html?names=nonsense,__proto__,constructor")
    assert page.locator("#side").is_hidden()


def test_copy_buttons_copy(visit: Visit) -> None:
    page = visit.go(f"artifacts/{NAMES[0]}.html")
    page.locator(".copyable button").first.click()
    until(page.locator(".copyable button").first).to_have_text("Copied")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.splitlines()[:2] == ["import ddhub", f'data = ddhub.load("{NAMES[0]}")']
    assert page.locator(".copyable button").count() == page.locator("pre.code").count() > 3


def test_without_scripts_all_but_choosing_is_there(browser: Any, address: str) -> None:
    context = opened(browser, java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{address}index.html")
    assert page.locator(".tile:visible").count() > 50 and page.locator("form:visible").count() == 0
    assert page.locator("figure.chart:visible").count() >= 3
    page.goto(f"{address}compare.html")
    assert page.locator(".setting:visible").count() > 5
    context.close()


def test_it_works_from_the_disk(browser: Any, stock: tuple[Path, Built]) -> None:
    context = opened(browser)
    visit = Visit(context, f"{stock[0].as_uri()}/")
    page = visit.go("index.html")
    page.select_option("#filter [name=method]", "edf")
    page.reload()
    assert sorted(tiles(page)) == ["cifar10-edf-ipc1", "cifar10-edf-ipc10", "imagenette-edf-ipc1"]
    page.goto(f"{visit.address}compare.html?names={','.join(NAMES)}")
    assert page.locator("#by-class svg.cells").count() == 20
    context.close()
    assert visit.wrong == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser: Any, address: str, scheme: str) -> None:
    context = opened(browser, color_scheme=scheme, viewport={"width": 1280, "height": 900})
    page, found = context.new_page(), {}
    paths = ["index.html", f"compare.html?names={','.join(NAMES)}", "methods/infer.html", "reference/index.html"]
    paths += [f"artifacts/{name}.html" for name in (NAMES[0], "cifar10-udd-ipc1", "cifar10-edf-ipc10-cpd")]
    for path in paths:
        page.goto(address + path)
        violations = axe.Axe().run(page).response["violations"]
        for x in violations:
            found[path, x["id"], x["impact"]] = [node["html"][:200] for node in x["nodes"][:2]]
    context.close()
    assert {key: nodes for key, nodes in found.items() if key[2] in ("serious", "critical")} == {}
