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
    from ddhub.cards.rendering import rendered
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
    folders = {x for x in known if x in named or (every and x.parent == bundled.BUNDLED)}
    for path, text in rendered(known, folders, bundled.BUNDLED if every else None):
        write(path, text)
        say(str(path))
