"""`ddhub card`: the cards of artifacts, and the leaderboard."""

from __future__ import annotations

from pathlib import Path

import click

from ddhub.cli.options import names_argument
from ddhub.cli.printing import say, write
from ddhub.errors import UsageError


@click.command("card")
@names_argument
@click.option(
    "--to", metavar="FOLDER", help="Also write the cards, previews and leaderboard of all artifacts to this folder."
)
def card(names: tuple[str, ...], to: str | None) -> None:
    """Write the card of each artifact, README.md, into its folder, from its manifest and results.

    With --to, FOLDER/NAME also gets the manifest and the results of each artifact that is not bundled. They are enough
    to render its card again: name FOLDER/NAME to this command.
    """
    from ddhub.artifact import bundled
    from ddhub.artifact.manifest import MANIFEST, PREVIEW, README, RESULTS, read_bytes, seal_text
    from ddhub.cards.card import leaderboard, render
    from ddhub.remote.cache import writable
    from ddhub.remote.find import resolve

    named = dict.fromkeys(writable(resolve(name)) for name in names)
    known = bundled.at_hand(named)
    entries = list(known.values())
    if missing := named.keys() - known.keys():
        raise UsageError(
            f"{min(missing)} has the same name as another artifact that was given; render one of them at a time"
        )
    for folder, entry in known.items():
        text = seal_text(render(entry, entries)).encode()
        copy = Path(to) / entry.manifest.name if to else None
        if folder in named:
            write(folder / README, text)
            say(str(folder / README))
        if copy:
            write(copy / README, text)
            more = (PREVIEW,) if folder.parent == bundled.BUNDLED else (PREVIEW, MANIFEST, RESULTS)
            for name in more:
                if (folder / name).exists():
                    write(copy / name, read_bytes(folder / name))
            say(str(copy / README))
    if to:
        write(Path(to) / README, leaderboard(entries).encode())
        say(str(Path(to) / README))
