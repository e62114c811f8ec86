"""`ddhub push`: publish an artifact or a teacher.

ddhub push out/cifar10-infer-ipc10 --to lab/cifar10-infer-ipc10 --dry-run
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ddhub.cli.options import json_option, name_argument
from ddhub.cli.printing import print_json, say

if TYPE_CHECKING:
    from ddhub.publish.bundle import Published


@click.command()
@name_argument
@click.option("--to", metavar="TARGET", help="Publish to NAMESPACE/NAME on the Hub, or to a folder: ./FOLDER, /FOLDER.")
@click.option("--private", is_flag=True, help="Make the new repository private; stop if there is a public one.")
@click.option("--create-pr", is_flag=True, help="Open a pull request instead, without a tag and a catalog entry.")
@click.option(
    "--catalog",
    metavar="FILE",
    help="Add the entry of this version to this catalog. [default: the catalog of the checkout, for its namespace]",
)
@click.option(
    "--accept-below-baseline",
    is_flag=True,
    help="Publish although random selection is more accurate; the card says so.",
)
@click.option("--accept-uncommitted", is_flag=True, help="Publish although the code that made it is in no commit.")
@click.option("--accept-private", is_flag=True, help="Publish although a path or the name of this machine is in it.")
@click.option("--dry-run", is_flag=True, help="Check everything and print what would be published, but write nothing.")
@json_option
def push(
    name: str,
    to: str | None,
    private: bool,
    create_pr: bool,
    catalog: str | None,
    accept_below_baseline: bool,
    accept_uncommitted: bool,
    accept_private: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Check an artifact or a teacher, and publish it to the Hub, or to a folder from which others can download.

    Without --to, the repository has the same name, in the namespace DDHUB_NAMESPACE (ddhub if it is not set). Sign in
    to the Hub first: hf auth login.
    """
    from ddhub.publish.push import push as publish

    done = publish(
        name,
        to,
        private=private or None,
        create_pr=create_pr,
        dry_run=dry_run,
        accept_below_baseline=accept_below_baseline,
        accept_uncommitted=accept_uncommitted,
        accept_private=accept_private,
        catalog=catalog or (None if private or create_pr else _checkout_catalog(to)),
    )
    if as_json:
        print_json(asdict(done))
        return
    _tell(done, dry_run)


def _checkout_catalog(to: str | None) -> Path | None:
    """The catalog of this checkout, if ddhub runs from one, for repositories of the namespace that it lists."""
    from ddhub.remote.client import CATALOG, namespace

    is_checkout = (CATALOG.parents[2] / "pyproject.toml").is_file() and os.access(CATALOG, os.W_OK)
    return CATALOG if is_checkout and (to is None or to.startswith(f"{namespace()}/")) else None


def _tell(done: Published, dry_run: bool) -> None:
    for check in done.checks:
        say(f"ok: {check}")
    for path, size in done.files.items():
        say(f"{size:>13,}  {path}")
    say(f"{sum(done.files.values()):>13,}  bytes in {len(done.files)} files")
    version = ", ".join(filter(None, (done.commit and f"commit {done.commit}", done.tag and f"tag {done.tag}")))
    state = "there already" if not done.changed else "would be written" if dry_run else "published"
    say(f"{done.url}: {state}{version and f', {version}'}")
    if done.pin and not dry_run:
        say(f"catalog entry: {json.dumps(asdict(done.pin))}")
