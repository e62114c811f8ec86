"""The command line.

    ddhub list
    ddhub train cifar10-infer-ipc10 cifar10-random-ipc10 --model resnet18 --seeds 3 --data ROOT

Here are the commands on artifacts as they lie; in `ddhub._cli_train` and `_cli_compare` those on students, in
`_cli_export` those for other tools, in `_cli_data` those on real data, in `_cli_hub`, `_cli_push` and `_cli_import`
those that take artifacts elsewhere. A command imports what it needs inside its body, so that `ddhub list` never pays
for torch. Errors and exit codes are those of `ddhub._program`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from ddhub import __version__, _ranks
from ddhub._cli_compare import compare
from ddhub._cli_data import data
from ddhub._cli_export import cite, completion, export
from ddhub._cli_hub import download
from ddhub._cli_import import import_
from ddhub._cli_push import push
from ddhub._cli_train import train
from ddhub._options import complete_artifacts, json_option, name_argument, names_argument
from ddhub._printing import flat, print_json, print_table, say, write
from ddhub._program import guarded
from ddhub.errors import ArtifactError, UsageError


def main() -> None:
    """Entry point: one-line errors, exit code 2 for usage, 1 for failure, 130 for an interrupt."""
    _ranks.leave(guarded(cli, "ddhub"))


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ddhub")
@click.pass_context
def cli(context: click.Context) -> None:
    """Distilled datasets that load by NAME: a bundled artifact's (ddhub list) or an artifact's folder."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@cli.command("list")
@click.option("--remote", is_flag=True, help="Ask the Hub: those of DDHUB_NAMESPACE, else ddhub, and of the catalog.")
@json_option
def list_(remote: bool, as_json: bool) -> None:
    """Show the bundled artifacts, the accuracies of their students, and the bundled teachers."""
    if remote:
        from ddhub._cli_hub import print_published

        return print_published(as_json)

    from ddhub import teachers
    from ddhub._shelf import facts, shelf, test_text
    from ddhub.results import settings

    entries = [entry for _, entry in shelf()]
    known = teachers.catalog()
    if as_json:
        keys = ["name", "method", "dataset", "ipc", "bytes", "bits_per_class", "digest", "results"]
        shown = [{"kind": "artifact", **{key: facts(entry)[key] for key in keys}} for entry in entries]
        keys = ["name", "model", "dataset", "accuracy", "epochs", "digest"]
        print_json(shown + [{"kind": "teacher", **{key: x[key] for key in keys}} for x in known.values()])
        return
    rows: list[list[object]] = []
    for entry in entries:
        m = entry.manifest
        rows.append([m.name, m.method, m.dataset, m.ipc, f"{entry.bytes:,}", f"{m.bits_per_class():,.0f}"])
    print_table(["name", "method", "dataset", ">ipc", ">stored bytes", ">bits per class"], rows)
    for means in settings(entries).values():
        first = means[0].first
        click.echo()
        say(f"accuracy in %, last epoch, protocol {first.protocol} ({first.protocol_digest}), {test_text(first)}")
        models = list(dict.fromkeys(mean.first.model for mean in means))
        cells = {(x.first.artifact, x.first.model): f"{x.text} (n = {len(x.runs)})" for x in means}
        names = dict.fromkeys(mean.first.artifact for mean in means)
        print_table(["name", *models], [[name, *(cells.get((name, x), "") for x in models)] for name in names])
    if known:
        click.echo()
        rows = [[x["name"], x["model"], x["dataset"], x["epochs"], f"{x['accuracy']:.2f}"] for x in known.values()]
        print_table(["teacher", "model", "dataset", ">epochs", ">accuracy in %"], rows)


@cli.command()
@name_argument
@json_option
def info(name: str, as_json: bool) -> None:
    """Show what an artifact or a teacher says about itself."""
    from ddhub import hub, results, teachers
    from ddhub._shelf import facts, mean_text, teacher_folder

    teacher = teacher_folder(name)
    means = []
    if teacher:
        shown = teachers.read(teacher)
    else:
        entry = results.read(hub.resolve(name, whole=False))
        shown, means = facts(entry), entry.means()
    if as_json:
        print_json(shown)
        return
    classes = shown["classes"]
    shown |= {
        "classes": f"{len(classes)}: {', '.join(classes[:10])}{', …' * (len(classes) > 10)}",
        "image_size": " x ".join(map(str, shown["image_size"])),
    }
    if not teacher:
        shown["results"] = [f"{mean_text(x)}, protocol {x.first.protocol} ({x.first.protocol_digest})" for x in means]
    for key, value in shown.items():
        lines = value if isinstance(value, list) and key not in ("mean", "std") else [value]
        for number, line in enumerate(lines or ["none"]):
            say(f"{'' if number else key:15} {flat(line)}")


@cli.command()
@click.argument("names", metavar="NAME...", nargs=-1, shell_complete=complete_artifacts)
@click.option("--remote", is_flag=True, help="Check that the Hub has what the catalog pins; all of it without a NAME.")
@json_option
def verify(names: tuple[str, ...], remote: bool, as_json: bool) -> None:
    """Check every byte of artifacts and teachers, and that cards are what manifests and results say."""
    if remote:
        from ddhub._cli_hub import verify_published

        return verify_published(names, as_json)
    if not names:
        raise UsageError("nothing to check; name an artifact, or give --remote (ddhub verify --help)")
    from ddhub import hub, teachers
    from ddhub._shelf import shelf, teacher_folder

    folders = {name: teacher_folder(name) for name in names}
    found = {name: hub.resolve(name) for name, teacher in folders.items() if not teacher}
    entries = [entry for _, entry in shelf(found.values())]
    reports: list[dict[str, Any]] = []
    for name, teacher in folders.items():
        try:
            if teacher:
                count, digest = 2, teachers.verify(teacher)["digest"]
            else:
                count, digest = _checked(name, found[name], entries)
        except ArtifactError as error:
            reports.append({"name": name, "ok": False, "error": str(error)})
            say(f"error: {error}", err=True)
            continue
        reports.append({"name": name, "ok": True, "files": count, "digest": digest})
        if not as_json:
            say(f"{name}: ok, {count} files, digest {digest}")
    if as_json:
        print_json(reports)
    if not all(report["ok"] for report in reports):
        sys.exit(1)


def _checked(name: str, folder: Path, entries: list[Any]) -> tuple[int, str]:
    """Files and digest of an artifact of which every byte and the card are right. Raises ArtifactError."""
    from ddhub import _compensators, card, results
    from ddhub.artifact import Artifact
    from ddhub.manifest import COMPENSATORS, README, read_bytes

    artifact = Artifact.open(folder)
    readme, pictures = folder / README, folder / COMPENSATORS
    if readme.exists() and not card.is_right(read_bytes(readme).decode(), results.read(folder), entries):
        cause = "not the card of the manifest and results beside it"
        raise ArtifactError(f"{readme}: {cause}; run ddhub card {name}")
    if pictures.exists() and read_bytes(pictures) != _compensators.render(artifact):
        raise ArtifactError(f"{pictures}: not what this Pillow makes of the tensors; remove it, or publish it again")
    return len(artifact.file_bytes()), artifact.manifest.digest


@cli.command()
@name_argument
@click.option("--to", metavar="FILE.png", help="Where to write it; NAME.png in the current folder if not given.")
@click.option("--decoded", is_flag=True, help="Rebuilt training images, those of one stored image side by side.")
@click.option(
    "--proxy",
    metavar="TEACHER",
    help="Of mosaics: whose use of the pixels is shown; the recipe's if not given.",
)
def preview(name: str, to: str | None, decoded: bool, proxy: str | None) -> None:
    """Write a picture of an artifact, one row a class: its stored images, or what they become.

    Of mosaics (decoder crops) it shows where their tiles and regions lie, and how much a proxy makes of each pixel; how
    often each pixel is used where no proxy is at hand.
    """
    from ddhub import hub
    from ddhub.manifest import PREVIEW, read_bytes, read_manifest

    folder = hub.resolve(name)
    manifest = read_manifest(folder)
    path = Path(to or f"{manifest.name}{'-decoded' if decoded else ''}.png")
    if path.suffix.lower() != ".png":
        raise UsageError(f"{path} does not end in .png; choose another --to")
    mosaics, legend = manifest.decoder["kind"] == "crops" and not decoded, ""
    if proxy and not mosaics:
        raise UsageError(f"--proxy is for the squares of mosaics, which {manifest.name} has none of; leave it out")
    if decoded:
        picture = _decoded(folder)
    elif mosaics:
        picture, legend = _mosaics(folder, proxy)
    else:
        picture = read_bytes(folder / PREVIEW)
    write(path, picture)
    say(f"{path}: {legend}" if legend else str(path))


def _mosaics(folder: Path, proxy: str | None) -> tuple[bytes, str]:
    """The picture of a mosaic's squares and its legend; the proxy is the one given, else the recipe's if found."""
    from ddhub import _squares, teachers
    from ddhub.artifact import Artifact
    from ddhub.errors import DDHubError
    from ddhub.hub import about

    artifact = Artifact.open(folder)
    facts = about(artifact)
    measured = artifact.manifest.recipe["run"].get("measured")
    own = str(measured.get("proxy", "")) if isinstance(measured, dict) else ""
    try:
        ids = [teachers.identify(proxy, near=facts.near) if proxy else own] if proxy or own else []
        nets = teachers.fitting(ids, facts)
    except DDHubError as error:
        if proxy:
            raise
        picture, legend = _squares.draw(artifact)
        return picture, f"{legend} (no proxy: {error})"
    return _squares.draw(artifact, *nets)


def _decoded(folder: Path) -> bytes:
    """PNG grid of the first ten training images of the first ten classes, grouped by their stored image."""
    import torch

    from ddhub import decode, pixels
    from ddhub.artifact import Artifact

    artifact = Artifact.open(folder)
    m = artifact.manifest
    decoder = decode.build(m.decoder, artifact.images(), artifact.tensors(), m.pixel_range)
    stored = decoder.image_of(torch.arange(len(decoder)))
    items = stored.argsort(stable=True)
    labels = artifact.image_labels()[stored[items]]
    first = torch.cat([(labels == k).nonzero().flatten()[:10] for k in labels.unique()[:10]])
    images = decoder(items[first]).mul(255).round().clamp(0, 255).to(torch.uint8)
    return pixels.to_png(pixels.preview(images, labels[first], m.classes))


@cli.command("card")
@names_argument
@click.option("--to", metavar="FOLDER", help="Also write cards, previews and the leaderboard of all artifacts there.")
def card_(names: tuple[str, ...], to: str | None) -> None:
    """Write README.md into artifacts' folders, from their manifests and results.

    With --to, FOLDER/NAME has also the manifest and the results of an artifact that is not bundled: they are enough to
    name that folder to this command later.
    """
    from ddhub import card, hub
    from ddhub._shelf import own, shelf
    from ddhub.manifest import MANIFEST, PREVIEW, README, RESULTS, read_bytes, seal_text

    named = dict.fromkeys(own(hub.resolve(name)) for name in names)
    found = shelf(named)
    entries = [entry for _, entry in found]
    if missing := named.keys() - {folder for folder, _ in found}:
        raise UsageError(f"{min(missing)} has the name of another one given; render one of them at a time")
    for folder, entry in found:
        text = seal_text(card.render(entry, entries)).encode()
        copy = Path(to) / entry.manifest.name if to else None
        if folder in named:
            write(folder / README, text)
            say(str(folder / README))
        if copy:
            write(copy / README, text)
            more = (PREVIEW,) if folder.parent == hub.BUNDLED else (PREVIEW, MANIFEST, RESULTS)
            for name in more:
                if (folder / name).exists():
                    write(copy / name, read_bytes(folder / name))
            say(str(copy / README))
    if to:
        write(Path(to) / README, card.leaderboard(entries).encode())
        say(str(Path(to) / README))


for command in (train, compare, export, download, import_, push, cite, data, completion):
    cli.add_command(command)


if __name__ == "__main__":
    main()
