"""The Markdown that cards write, as HTML: headings, tables, lists, code, and within a line code, bold and links.

    html(["**12 bytes**", "| a | b |\\n| --- | --- |\\n| 1 | 2 |"], links)

It reads no other Markdown and no HTML: all else is text. A link is one only where `links` knows its target.
"""

from __future__ import annotations

import html as entities
import re
from collections.abc import Callable, Iterable

from markupsafe import Markup, escape

Links = Callable[[str], str | None]  # from the target on a card to an address in the site; None where there is none

_FENCED = re.compile(r"^(`{3,})(\w*)\n(.*?)\n?^\1$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`]+)`|\*\*([^*]+)\*\*|!?\[([^\[\]]+)\]\(([^()\s]+)\)")
_NUMBER = re.compile(r"[+-]?[\d,]+(\.\d+)?( ± [\d.]+)?( to [\d,]+)?%?")


def html(parts: Iterable[str], links: Links = lambda target: None) -> Markup:
    """Parts of a card as HTML."""
    made: list[Markup] = []
    for part in parts:
        at = 0
        for match in _FENCED.finditer(part):
            made += _blocks(part[at : match.start()], links)
            made.append(code(match[3], match[2]))
            at = match.end()
        made += _blocks(part[at:], links)
    return Markup("\n").join(made)


def code(text: str, language: str = "") -> Markup:
    """A block of code; a script puts a button beside it that copies."""
    return Markup('<pre class="code" data-language="{}" tabindex="0"><code>{}</code></pre>').format(
        language, "\n".join(text.splitlines())
    )


def fenced(part: str) -> str:
    """The code inside a fenced block of a card."""
    match = _FENCED.fullmatch(part)
    return match[3] if match else part


def line(text: str, links: Links = lambda target: None) -> Markup:
    """A line of a card: code, bold, links, and text."""
    made, at = [], 0
    for match in _INLINE.finditer(text):
        made.append(_text(text[at : match.start()]))
        word, bold, name, target = match.groups()
        address = links(target) if target and not match[0].startswith("!") else None
        if word:
            made.append(Markup("<code>{}</code>").format(_text(word)))
        elif bold:
            made.append(Markup("<strong>{}</strong>").format(_text(bold)))
        elif address is not None:
            made.append(Markup('<a href="{}">{}</a>').format(address, _text(name)))
        else:
            made.append(_text(name if target else match[0]))
        at = match.end()
    return Markup("").join([*made, _text(text[at:])])


def _text(text: str) -> Markup:
    """Text that `ddhub.cards.markdown.text` has made safe for Markdown, as text of HTML."""
    return escape(entities.unescape(text.replace("\\|", "|")))


def _blocks(text: str, links: Links) -> list[Markup]:
    return [_block(block, links) for block in re.split(r"\n{2,}", text.strip("\n")) if block.strip()]


def _block(block: str, links: Links) -> Markup:
    lines = block.splitlines()
    if match := re.fullmatch(r"(#{2,4}) (.*)", block):
        level = len(match[1])
        return Markup("<h{}>{}</h{}>").format(level, line(match[2], links), level)
    if len(lines) > 1 and all(x.startswith("|") for x in lines):
        return _table(lines, links)
    if all(x.startswith("- ") for x in lines):
        items = Markup("").join(Markup("<li>{}</li>").format(line(x[2:], links)) for x in lines)
        return Markup("<ul>{}</ul>").format(items)
    return Markup("<p>{}</p>").format(line(" ".join(lines), links))


def _table(lines: list[str], links: Links) -> Markup:
    head, _, *rows = ([cell.strip() for cell in re.split(r"(?<!\\)\|", x.strip()[1:-1])] for x in lines)
    titles = Markup("").join(Markup('<th scope="col">{}</th>').format(line(x, links)) for x in head)
    body = Markup("").join(Markup("<tr>{}</tr>").format(Markup("").join(_cell(x, links) for x in row)) for row in rows)
    return Markup(
        '<div class="scroll" tabindex="0" role="group" aria-label="table"><table><thead><tr>{}</tr></thead>'
        "<tbody>{}</tbody></table></div>"
    ).format(titles, body)


def _cell(text: str, links: Links) -> Markup:
    number = Markup(' class="number"') if _NUMBER.fullmatch(text) else Markup("")
    return Markup("<td{}>{}</td>").format(number, line(text, links))
