"""The Markdown that cards write, as HTML: headings, tables, lists, code, and within a line code, bold and links.

    html(["**12 bytes**", "| a | b |\\n| --- | --- |\\n| 1 | 2 |"], links)

It reads no other Markdown and no HTML: all else is text. A link is one only where `links` knows its target.
"""

from __future__ import annotations

import html as entities
import re
from collections.abc import Callable, Iterable

from markupsafe import Markup, escape

from ddhub.cards.markdown import visible

Links = Callable[[str], str | None]  # from the target on a card to an address in the site; None where there is none

_FENCED = re.compile(r"^(`{3,})(\w*)\n(.*?)\n?^\1$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`]+)`|\*\*([^*]+)\*\*|!?\[([^\[\]]+)\]\(([^()\s]+)\)")
_BARS = re.compile(r"(?<!\\)\|")  # between the cells of a table
_NUMBER = re.compile(r"[+-]?[\d,]+(\.\d+)?( ± [\d.]+)?( to [\d,]+)?%?")


def html(parts: Iterable[str], links: Links = lambda target: None) -> Markup:
    """Parts of a card as HTML."""
    made: list[str] = []
    for part in parts:
        at = 0
        for match in _FENCED.finditer(part):
            made += _blocks(part[at : match.start()], links)
            made.append(code(match[3], match[2]))
            at = match.end()
        made += _blocks(part[at:], links)
    return Markup("\n".join(made))


def code(text: str, language: str = "") -> Markup:
    """A block of code; a script puts a button beside it that copies."""
    inside = "\n".join(map(visible, text.splitlines()))
    return Markup(
        f'<pre class="code" data-language="{escape(language)}" tabindex="0"><code>{escape(inside)}</code></pre>'
    )


# The functions below return HTML as plain texts: all that they are given has gone through `_text`, and Markup's own
# formatting takes five times as long.


def _text(text: str) -> str:
    """Text that `ddhub.cards.markdown.text` has made safe for Markdown, as text of HTML."""
    return str(escape(visible(entities.unescape(text.replace("\\|", "|")))))


def _line(text: str, links: Links) -> str:
    """A line of a card: code, bold, links, and text."""
    made, at = [], 0
    for match in _INLINE.finditer(text):
        made.append(_text(text[at : match.start()]))
        word, bold, name, target = match.groups()
        address = links(target) if target and not match[0].startswith("!") else None
        if word:
            made.append(f"<code>{_text(word)}</code>")
        elif bold:
            made.append(f"<strong>{_text(bold)}</strong>")
        elif address is not None:
            made.append(f'<a href="{escape(address)}">{_text(name)}</a>')
        else:
            made.append(_text(match[0]))
        at = match.end()
    return "".join([*made, _text(text[at:])])


def _blocks(text: str, links: Links) -> list[str]:
    return [_block(block, links) for block in re.split(r"\n{2,}", text.strip("\n")) if block.strip()]


def _block(block: str, links: Links) -> str:
    lines = block.splitlines()
    if match := re.fullmatch(r"(#{2,4}) (.*)", block):
        level = len(match[1])
        return f"<h{level}>{_line(match[2], links)}</h{level}>"
    if len(lines) > 1 and all(x.startswith("|") for x in lines):
        return _table(lines, links)
    if all(x.startswith("- ") for x in lines):
        return f"<ul>{''.join(f'<li>{_line(x[2:], links)}</li>' for x in lines)}</ul>"
    return f"<p>{_line(' '.join(lines), links)}</p>"


def _table(lines: list[str], links: Links) -> str:
    head, _, *rows = ([cell.strip() for cell in _BARS.split(x.strip()[1:-1])] for x in lines)
    titles = "".join(f'<th scope="col">{_line(x, links)}</th>' for x in head)
    body = "".join(f"<tr>{''.join(_cell(x, links) for x in row)}</tr>" for row in rows)
    frame = '<div class="scroll" tabindex="0" role="group" aria-label="table"><table>'
    return f"{frame}<thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>"


def _cell(text: str, links: Links) -> str:
    number = ' class="number"' if _NUMBER.fullmatch(text) else ""
    return f"<td{number}>{_line(text, links)}</td>"
