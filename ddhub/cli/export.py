"""`ddhub export`, `ddhub cite`, `ddhub completion`: images for other tools, BibTeX, and names for the shell.

ddhub export cifar10-infer-ipc10 --to datasets out/infer
ddhub cite cifar10-infer-ipc10 >> paper.bib
eval "$(ddhub completion bash)"
"""

from __future__ import annotations

import click

from ddhub.cli.options import json_option, name_argument, names_argument
from ddhub.cli.printing import print_json, printable, say


@click.command()
@name_argument
@click.option(
    "--to",
    required=True,
    type=click.Choice(["imagefolder", "npz", "datasets", "pt"]),
    help="The format of the files, as listed above.",
)
@click.argument("out", type=click.Path())
@json_option
def export(name: str, to: str, out: str, as_json: bool) -> None:
    """Write the rebuilt training images of an artifact, with their labels, to OUT.

    \b
    imagefolder  OUT/CLASS/00000.png of 8 bits, with labels and logits in OUT/metadata.jsonl
    npz          one file: images (f32 in unit scale), labels, logits
    datasets     a folder for datasets.load_from_disk: image (8 bits), label, logits
    pt           images.pt (normalised), labels.pt, hard_labels.pt, as DD-Ranking reads them
    """
    from ddhub.convert.export import export as write

    done = write(name, to, out)
    if as_json:
        print_json({"path": str(done.path), "items": done.items, "logits": done.logits, "change": done.change})
        return
    labels = "with logits" if done.logits else "with class numbers, it stores no logits of plain items"
    rounded = f"; rounding to 8 bits moved a value by at most {done.change:.4f}" if done.change else ""
    say(f"{done.path}: {done.items:,} items {labels}{rounded}")


@click.command()
@names_argument
def cite(names: tuple[str, ...]) -> None:
    """Print BibTeX entries for artifacts or teachers, the work they are built on, their data sets, and ddhub."""
    from ddhub import teachers
    from ddhub.artifact.manifest import read_manifest
    from ddhub.cards.citations import citations
    from ddhub.remote.find import resolve
    from ddhub.teachers import folder_of

    folders = {name: folder_of(name) for name in names}
    manifests = [read_manifest(resolve(name, whole=False)) for name, teacher in folders.items() if not teacher]
    datasets = [teachers.read(teacher)["dataset"] for teacher in folders.values() if teacher]
    click.echo(printable("\n\n".join(citations(manifests, datasets))))


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script that lets a shell complete commands, options and names.

    \b
    bash  eval "$(ddhub completion bash)"      in ~/.bashrc
    zsh   eval "$(ddhub completion zsh)"       in ~/.zshrc
    fish  ddhub completion fish | source       in ~/.config/fish/config.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None  # click knows the three shells
    click.echo(kind(context.find_root().command, {}, "ddhub", "_DDHUB_COMPLETE").source())
