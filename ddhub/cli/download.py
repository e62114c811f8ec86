"""`ddhub download`: an artifact of the Hub, for use without a network.

ddhub download cifar10-infer-ipc10 --to cifar10-infer-ipc10
ddhub download cifar10-infer-ipc10 --source https://example.org/artifacts
"""

from __future__ import annotations

import click

from ddhub.cli.options import name_argument
from ddhub.cli.printing import say


@click.command()
@name_argument
@click.option("--to", metavar="FOLDER", help="Also write the artifact to this folder, which must be new or empty.")
@click.option(
    "--source",
    metavar="LOCATION",
    help="Download from this folder or https address, made by ddhub push --to, instead of the Hub.",
)
@click.option("--revision", help="Download this commit, tag or branch. [default: the catalog's commit, else main]")
@click.option("--force", is_flag=True, help="Download all files again, also those in the cache.")
def download(name: str, to: str | None, source: str | None, revision: str | None, force: bool) -> None:
    """Download an artifact with its card and the teachers that it needs, and print its folder."""
    from ddhub import hub

    folder = hub.download(name, to, source=source, revision=revision, force_download=force)
    say(str(folder))
