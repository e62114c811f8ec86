"""`ddhub card`: the cards of artifacts, and the leaderboard."""

from __future__ import annotations

from pathlib import Path

import click

from ddhub.cli.options import names_argument
from ddhub.cli.printing import say, write
from ddhub.errors import UsageError


@click.command("card")
@names_argument
@click.option("--to", metavar="FOLDER", help="Also write cards, previews and the leaderboard of all artifacts there.")
def card(names: tuple[str, ...], to: str | None) -> None:
    """Write README.md into artifacts' folders, from their manifests and results.

    With --to, FOLDER/NAME has also the manifest and the results of an artifact that is not bundled: they are enough to
    name that folder to this command later.
    """
    from ddhub.artifact import bundled
    from ddhub.artifact.manifest import MANIFEST, PREVIEW, README, RESULTS, read_bytes, seal_text
    from ddhub.cards.card import leaderboard, render
    from ddhub.remote.cache import writable
    from ddhub.remote.find import resolve

    named = dict.fromkeys(writable(resolve(name)) for name in names)
    found = bundled.at_hand(named)
    entries = list(found.values())
    if missing := named.keys() - found.keys():
        raise UsageError(f"{min(missing)} has the name of another one given; render one of them at a time")
    for folder, entry in found.items():
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
