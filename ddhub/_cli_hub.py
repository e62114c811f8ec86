"""`ddhub download`, and what `list --remote` and `verify --remote` print.

ddhub download cifar10-infer-ipc10 --to cifar10-infer-ipc10
ddhub download cifar10-infer-ipc10 --source https://example.org/artifacts
"""

from __future__ import annotations

import sys

import click

from ddhub._options import name_argument
from ddhub._printing import print_json, print_table, say


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


def print_published(as_json: bool) -> None:
    """What `ddhub list --remote` prints."""
    from ddhub._links import published

    rows = published()
    if as_json:
        print_json(rows)
        return
    table = []
    for row in rows:
        pinned = f"at {row['pinned'][:12]}" if row["pinned"] else "no"
        commit = row["commit"][:12] if row["commit"] else "not listed"
        table.append([row["name"], commit, row["modified"] or "", "yes" if row["pinned"] == row["commit"] else pinned])
    print_table(["name", "commit", "modified", "in the catalog"], table)


def verify_published(names: tuple[str, ...], as_json: bool) -> None:
    """What `ddhub verify --remote` prints; exits with 1 if the Hub has not what the catalog pins."""
    from ddhub._links import report

    reports = report(names)
    if as_json:
        print_json(reports)
    for entry in reports:
        if not entry["ok"]:
            say(f"error: {entry['name']}: {entry['error']}", err=True)
        elif not as_json:
            say(f"{entry['name']}: ok, {entry['repo']} {entry['tag']} is commit {entry['revision']}")
    if not reports and not as_json:
        say("nothing is published yet: the catalog is empty")
    if not all(entry["ok"] for entry in reports):
        sys.exit(1)
