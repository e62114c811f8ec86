"""`ddhub download`, and what `list --remote` and `verify --remote` print.

ddhub download cifar10-infer-ipc10 --to cifar10-infer-ipc10
ddhub download cifar10-infer-ipc10 --source https://example.org/artifacts
"""

from __future__ import annotations

import click

from ddhub.cli.options import name_argument
from ddhub.cli.printing import say


@click.command()
@name_argument
@click.option("--to", metavar="FOLDER", help="Also write it there, where there is nothing.")
@click.option("--source", metavar="WHERE", help="A folder or https address that ddhub push --to has made, not the Hub.")
@click.option("--revision", help="A commit, tag or branch.")
@click.option("--force", is_flag=True, help="Download again what was downloaded before.")
def download(name: str, to: str | None, source: str | None, revision: str | None, force: bool) -> None:
    """Download an artifact with its card and the teachers it needs, and print where it is."""
    from ddhub import hub

    folder = hub.download(name, to, source=source, revision=revision, force_download=force)
    say(str(folder))
