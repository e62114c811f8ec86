"""The command line.

    ddhub list
    ddhub train cifar10-infer-ipc10 cifar10-random-ipc10 --model resnet18 --seeds 3 --data ROOT

A file of this folder is a command, or a few that belong together. A command imports what it needs inside its body, so
that `ddhub list` does not import torch. Errors and exit codes are those of `ddhub.cli.program`.
"""

from __future__ import annotations

import click

from ddhub import __version__
from ddhub.cli.card import card
from ddhub.cli.compare import compare
from ddhub.cli.data import data
from ddhub.cli.download import download
from ddhub.cli.export import cite, completion, export
from ddhub.cli.gallery import gallery
from ddhub.cli.import_ import import_
from ddhub.cli.info import info
from ddhub.cli.list_ import list_
from ddhub.cli.preview import preview
from ddhub.cli.program import guarded
from ddhub.cli.push import push
from ddhub.cli.recode import recode
from ddhub.cli.train import train
from ddhub.cli.verify import verify
from ddhub.training import ranks


def main() -> None:
    """The entry point: an error is one line; the exit code is 2 for usage, 1 for failure, 130 for an interrupt."""
    ranks.leave(guarded(cli, "ddhub"))


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ddhub")
@click.pass_context
def cli(context: click.Context) -> None:
    """Load, train on, compare and publish distilled datasets.

    An artifact is one distilled dataset. NAME is the name of a bundled artifact (ddhub list), the name of one on the
    Hub (ddhub list --remote), or the folder of one.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


for command in (
    list_, info, download, verify, preview, train, compare, export, import_, recode, cite, card, gallery, push, data,
    completion,
):  # fmt: skip
    cli.add_command(command)
