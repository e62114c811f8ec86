"""`ddhub card`: the cards of artifacts, and the leaderboard."""

from __future__ import annotations

import click

from ddhub.cli.options import complete_artifacts
from ddhub.cli.printing import say, write
from ddhub.errors import UsageError


@click.command()
@click.argument("names", metavar="NAME...", nargs=-1, shell_complete=complete_artifacts)
@click.option("--all", "every", is_flag=True, help="Render the cards of all bundled artifacts, and their leaderboard.")
def card(names: tuple[str, ...], every: bool) -> None:
    """Write README.md into artifacts' folders, from their manifests and results."""
    from ddhub.artifact import bundled
    from ddhub.artifact.manifest import README, seal_text
    from ddhub.cards.card import leaderboard, render
    from ddhub.remote.cache import writable
    from ddhub.remote.find import resolve

    if not names and not every:
        raise UsageError("no card to render; name an artifact, or give --all (ddhub card --help)")
    if every and not bundled.CHECKOUT:
        raise UsageError("--all renders the cards of a clone; this ddhub is installed, name artifacts of your own")
    named = dict.fromkeys(writable(resolve(name, whole=False)) for name in names)
    known = bundled.at_hand(named)
    if missing := named.keys() - known.keys():
        raise UsageError(f"{min(missing)} has the name of another one given; render one of them at a time")
    entries = list(known.values())
    for folder, entry in known.items():
        if folder in named or (every and folder.parent == bundled.BUNDLED):
            write(folder / README, seal_text(render(entry, entries)).encode())
            say(str(folder / README))
    if every:
        write(bundled.BUNDLED / README, leaderboard(entries).encode())
        say(str(bundled.BUNDLED / README))
