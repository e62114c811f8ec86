"""Strangers' texts: names of classes, licences and citations are text on every page, whatever they hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gallery.conftest import Page

from ddhub.artifact import bundled, results
from ddhub.artifact.folder import Artifact
from ddhub.artifact.manifest import read_manifest
from ddhub.gallery import markup
from ddhub.gallery.site import build

LIKE = bundled.BUNDLED / "cifar10-random-ipc10"
EVIL = '<script>alert("x")</script>'
TEXTS = {
    "script": EVIL,
    "attribute": '" onmouseover="alert(1)" x=\'',
    "closing": "</title></script></textarea><!-- --><img src=x onerror=alert(1)>",
    "right to left": "a\u202egnp.exe\u2066\u200f\u2028b",
    "control": "a\x00\x1b[31mb\x7f",
    "long": "w" * 10_000,
    "markdown": "[x](javascript:alert(1)) `a` **b** | c ![p](http://x/y.png) {{ 7 * 7 }} {% raw %}",
    "entities": "&lt;b&gt; &amp;amp; &#60;i&#62;",
}


def hostile(folder: Path, text: str) -> Path:
    """An artifact in which a stranger's text stands wherever a text may."""
    m = read_manifest(LIKE)
    recipe = {**m.recipe, "path": f"recipes/{text}.py", "repository": text, "commit": text, "preset": text}
    key = text[:200]  # longer ones are refused
    line = "".join(x for x in key if x.isprintable())  # as others are in names of methods and protocols
    recipe["config"] = {"ipc": 1, key: text}
    recipe["run"] = {"device": text, "seconds": text, "measured": {key: text}, "stages": {key: {"seconds": text}}}
    changed = replace(
        m,
        name="tiny",
        ipc=1,
        method=line,
        dataset=f"set {line}"[:200],
        classes=tuple(f"{key[:199]}{i}" for i in range(10)),
        labels={"kind": "hard"},
        recipe=recipe,
        source={key: text for key in m.source},
        teachers=[{"model": text, "accuracy": text, "epochs": text}],
        license=text,
        citation=f"@misc{{{text},\n  title = {{{text}}}\n}}",
        deviations=[text],
        paper=[{"model": text, "accuracy": text, "where": text}],
        protocol={**m.protocol, "name": line},
        tensors={},
        content="",
        files={},
    )
    images = torch.randint(0, 256, (10, 3, 32, 32), dtype=torch.uint8)
    artifact = Artifact.write(
        folder / "tiny", manifest=changed, images=images, image_labels=torch.arange(10), tensors={}
    )
    run = results.read(LIKE).results[0]
    settings = {**run.settings, "name": line}
    words = dict.fromkeys(("protocol", "model", "test_name", "test", "test_fingerprint", "device", "versions"), text)
    for seed in (0, 1):
        record = {**vars(run), **words, "settings": settings, "artifact": "tiny", "digest": artifact.manifest.digest}
        artifact.add_result({**record, "seed": seed})
    return artifact.folder


def names(page: Page) -> set[str]:
    return {tag for tag, _ in page.elements}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_strangers_text_is_text(text: str, tmp_path: Path) -> None:
    plain = hostile(tmp_path / "plain", "plain")
    folder = hostile(tmp_path / "evil", text)
    out, calm = tmp_path / "site", tmp_path / "calm"
    build(out, {folder: results.read(folder)})
    build(calm, {plain: results.read(plain)})
    for path in ("index.html", "compare.html", "artifacts/tiny.html"):
        page, other = Page((out / path).read_text()), Page((calm / path).read_text())
        assert page.broken == [] and page.open == [], path
        # not an element, not an attribute more than with a text that has nothing to say
        assert names(page) <= names(other) | {"code", "strong"}, path
        keys = {(tag, key) for tag, facts in page.elements for key in facts}
        assert keys <= {(tag, key) for tag, facts in other.elements for key in facts}, path
        addresses = [x for tag, key in (("a", "href"), ("img", "src"), ("script", "src")) for x in page.all(tag, key)]
        assert not any(":" in x for x in addresses if not x.startswith("../index.html?data=")), path
        raw = (out / path).read_text()
        assert not any(x in raw for x in ("\u202e", "\u2066", "\u200f", "\u2028", "\x00", "\x1b", "\x7f"))
    shown = Page((out / "artifacts" / "tiny.html").read_text()).text
    assert "".join(x for x in text if x.isprintable()) in shown


def test_only_links_to_known_artifacts_are_links() -> None:
    part = "[a](../a/README.md) [b](../b/README.md) [c](javascript:alert(1)) ![d](../a/README.md)"
    made = markup.html([part], {"../a/README.md": "a.html"}.get)
    assert made == '<p><a href="a.html">a</a> [b](../b/README.md) [c](javascript:alert(1)) ![d](../a/README.md)</p>'


def test_what_cards_write_becomes_html() -> None:
    parts = [
        "### Title\n\nwords `x < y` **bold**\n\n- one\n- two",
        "| a | b \\| c |\n| --- | --- |\n| 1.50 ± 0.2 | &lt;i> |",
    ]
    assert markup.html(parts) == (
        "<h3>Title</h3>\n<p>words <code>x &lt; y</code> <strong>bold</strong></p>\n<ul><li>one</li><li>two</li></ul>\n"
        '<div class="scroll" tabindex="0" role="group" aria-label="table"><table><thead><tr><th scope="col">a</th>'
        '<th scope="col">b | c</th></tr></thead><tbody><tr><td class="number">1.50 ± 0.2</td><td>&lt;i&gt;</td></tr>'
        "</tbody></table></div>"
    )
    assert markup.html(["````sh\na ``` b\n\n## no heading\n````"]) == (
        '<pre class="code" data-language="sh" tabindex="0"><code>a ``` b\n\n## no heading</code></pre>'
    )
