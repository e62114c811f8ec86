"""Arguments and options that several commands share, with their completions in a shell.

Completion reads only folder names, so that it is as quick as the start of a command; models are the exception, as
their names come with torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem[Any]]]


def _starting(names: Iterable[str], incomplete: str) -> list[CompletionItem[Any]]:
    return [CompletionItem(name) for name in sorted(set(names)) if name.startswith(incomplete)]


def _folders(incomplete: str, marks: tuple[str, ...]) -> list[str]:
    """Paths, relative or absolute as typed, of the folders that have one of the files `marks`."""
    parent = incomplete[: incomplete.rfind("/") + 1]
    try:
        return [
            f"{parent}{x.name}" for x in Path(parent or ".").iterdir() if any((x / mark).is_file() for mark in marks)
        ]
    except OSError:
        return []


def _or_folder(items: list[CompletionItem[Any]]) -> list[CompletionItem[Any]]:
    """The items; if there are none, the completion of folders by the shell itself."""
    return items or [CompletionItem("", type="dir")]


def complete_artifacts(context: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
    """Bundled artifacts, artifacts in the catalog, and folders of artifacts or teachers."""
    from ddhub.artifact import bundled
    from ddhub.artifact.manifest import MANIFEST
    from ddhub.remote import client
    from ddhub.teachers import TEACHER

    return _or_folder(
        _starting([*bundled.names(), *client.pins(), *_folders(incomplete, (MANIFEST, TEACHER))], incomplete)
    )


def complete_teachers(context: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
    """Bundled teachers, and folders of teachers."""
    from ddhub.artifact.bundled import BUNDLED
    from ddhub.teachers import TEACHER

    bundled = (path.parent.name for path in BUNDLED.glob(f"*/{TEACHER}"))
    return _or_folder(_starting([*bundled, *_folders(incomplete, (TEACHER,))], incomplete))


def complete_protocols(context: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
    """Named protocols."""
    from ddhub.protocols.named import protocols

    return _starting(protocols(), incomplete)


def complete_models(context: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
    """Models of `ddhub.models`."""
    from ddhub.models import names

    return _starting(names(), incomplete)


def complete_sources(context: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
    """Known data sets."""
    from ddhub.sources.known import KNOWN

    return _starting(KNOWN, incomplete)


class _ProtocolOption(click.Option):
    """An option whose help has the names of the protocols: their table is read when the help is shown, not before."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """As click's, with the names in place of `{protocols}`."""
        from ddhub.protocols.named import protocols

        self.help = (self.help or "").replace("{protocols}", ", ".join(protocols()))
        return super().get_help_record(ctx)


def protocol_option(text: str) -> Callable[[Any], Any]:
    """`--protocol`, with a help text in which `{protocols}` are all names."""
    return click.option("--protocol", cls=_ProtocolOption, help=text, shell_complete=complete_protocols)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
name_argument = click.argument("name", shell_complete=complete_artifacts)
names_argument = click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=complete_artifacts)
