"""`ddhub gallery`: artifacts as a site in a browser."""

from __future__ import annotations

from pathlib import Path

import click

from ddhub.cli.options import complete_artifacts
from ddhub.cli.printing import say
from ddhub.errors import UsageError


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("names", metavar="[NAME]...", nargs=-1, shell_complete=complete_artifacts)
@click.option("--only", is_flag=True, help="Show the NAMEs alone, without the bundled artifacts.")
@click.option("--remote", is_flag=True, help="Also show the artifacts of the catalog, which are downloaded.")
@click.option("--open", "opens", is_flag=True, help="Show the site in the browser.")
@click.option("--serve", is_flag=True, help="Serve the site to this machine alone, at a free port, until interrupted.")
def gallery(out: Path, names: tuple[str, ...], only: bool, remote: bool, opens: bool, serve: bool) -> None:
    """Write a site that shows, compares and explains artifacts into the folder OUT.

    It has the bundled artifacts and the NAMEs. A second run writes what changed. Any web server, or none, can show it:
    it needs no network, and asks no other host for anything. Needs the extra `gallery`.
    """
    _check_extra()
    from ddhub.artifact import bundled
    from ddhub.gallery.site import build
    from ddhub.remote.client import pins
    from ddhub.remote.find import resolve

    if only and not names and not remote:
        raise UsageError("--only shows the NAMEs alone, and there is none; name an artifact, or leave out --only")
    known = pins()
    results = {folder.name for folder in bundled.folders_of_results()}  # also those whose data are not there
    asked = (*names, *(known if remote else ()))
    folders = dict.fromkeys(resolve(name, whole=name not in results) for name in asked)
    entries = bundled.at_hand(folders)
    if hidden := next((folder for folder in folders if folder not in entries), None):
        raise UsageError(
            f"{hidden} has the name of another that is to be shown, and a site has one page a name; leave out one"
        )
    if only:
        entries = {folder: entry for folder, entry in entries.items() if folder in folders}
    built = build(out, entries, {pin.digest: pin.repo for pin in known.values()})
    say(f"{out / 'index.html'}: {len(entries)} artifacts, {len(built.files)} files, {len(built.written)} written")
    if serve:
        from ddhub.gallery.serving import serve as run

        run(out, opens=opens)
    elif opens:
        click.launch((out / "index.html").resolve().as_uri())


def _check_extra() -> None:
    """UsageError where the libraries of the extra are not installed."""
    from importlib.util import find_spec

    if missing := [name for name in ("jinja2", "pdoc") if find_spec(name) is None]:
        raise UsageError(f"ddhub gallery needs {' and '.join(missing)}: pip install 'ddhub[gallery]'")
