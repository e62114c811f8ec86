"""The command line.

    ddhub list
    ddhub train cifar10-infer-ipc10 cifar10-random-ipc10 --model resnet18 --seeds 3 --data ROOT

A command imports what it needs inside its body, so that `ddhub list` never pays for torch. Errors and exit codes are
those of `ddhub._program`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ddhub import __version__
from ddhub._printing import flat, print_json, print_table, say
from ddhub._program import guarded
from ddhub.errors import ArtifactError, DDHubError, UsageError

if TYPE_CHECKING:
    from ddhub.protocols import Result
    from ddhub.results import Entry, Mean

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_names = click.argument("names", metavar="NAME...", nargs=-1, required=True)


def main() -> None:
    """Entry point: one-line errors, exit code 2 for usage, 1 for failure, 130 for an interrupt."""
    sys.exit(guarded(cli, "ddhub"))


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ddhub")
@click.pass_context
def cli(context: click.Context) -> None:
    """Distilled datasets that load by NAME: a bundled artifact's (ddhub list) or an artifact's folder."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@cli.command("list")
@_json
def list_(as_json: bool) -> None:
    """Show the bundled artifacts and the accuracies of their students."""
    from ddhub.results import settings

    entries = [entry for _, entry in _shelf()]
    if as_json:
        keys = ("name", "method", "dataset", "ipc", "bytes", "bits_per_class", "digest", "results")
        print_json([{key: _facts(entry)[key] for key in keys} for entry in entries])
        return
    rows = []
    for entry in entries:
        m = entry.manifest
        rows.append([m.name, m.method, m.dataset, m.ipc, f"{entry.bytes:,}", f"{m.bits_per_class():,.0f}"])
    print_table(["name", "method", "dataset", ">ipc", ">stored bytes", ">bits per class"], rows)
    for means in settings(entries).values():
        first = means[0].first
        click.echo()
        say(f"accuracy in %, last epoch, protocol {first.protocol} ({first.protocol_digest}), {_test(first)}")
        models = list(dict.fromkeys(mean.first.model for mean in means))
        cells = {(x.first.artifact, x.first.model): f"{x.text} (n = {len(x.runs)})" for x in means}
        names = dict.fromkeys(mean.first.artifact for mean in means)
        print_table(["name", *models], [[name, *(cells.get((name, x), "") for x in models)] for name in names])


@cli.command()
@click.argument("name")
@_json
def info(name: str, as_json: bool) -> None:
    """Show what an artifact says about itself."""
    from ddhub import hub, results

    entry = results.read(hub.resolve(name))
    facts = _facts(entry)
    if as_json:
        print_json(facts)
        return
    classes = facts["classes"]
    facts |= {
        "classes": f"{len(classes)}: {', '.join(classes[:10])}{', …' * (len(classes) > 10)}",
        "image_size": " x ".join(map(str, facts["image_size"])),
        "results": [
            f"{_mean(mean)}, protocol {mean.first.protocol} ({mean.first.protocol_digest})" for mean in entry.means()
        ],
    }
    for key, value in facts.items():
        lines = value if isinstance(value, list) else [value]
        for number, line in enumerate(lines or ["none"]):
            say(f"{'' if number else key:15} {flat(line)}")


@cli.command()
@_names
@_json
def verify(names: tuple[str, ...], as_json: bool) -> None:
    """Check every byte of artifacts, and that their cards are what their manifests and results say."""
    from ddhub import card, hub, results
    from ddhub.artifact import Artifact
    from ddhub.manifest import README, read_bytes, seal_text

    entries = [entry for _, entry in _shelf(names)]
    reports = []
    for name in names:
        folder = hub.resolve(name)
        try:
            artifact = Artifact.open(folder)
            text = seal_text(card.render(results.read(folder), entries))
            if (folder / README).exists() and read_bytes(folder / README) != text.encode():
                cause = "not the card of the manifest and results beside it"
                raise ArtifactError(f"{folder / README}: {cause}; run ddhub card {name}")
        except ArtifactError as error:
            reports.append({"name": name, "ok": False, "error": str(error)})
            say(f"error: {error}", err=True)
            continue
        count, digest = len(artifact.file_bytes()), artifact.manifest.digest
        reports.append({"name": name, "ok": True, "files": count, "digest": digest})
        if not as_json:
            say(f"{name}: ok, {count} files, digest {digest}")
    if as_json:
        print_json(reports)
    if not all(report["ok"] for report in reports):
        sys.exit(1)


@cli.command()
@click.argument("name")
@click.option("--to", metavar="FILE.png", help="Where to write it; NAME.png in the current folder if not given.")
@click.option("--decoded", is_flag=True, help="Rebuilt training images, those of one stored image side by side.")
def preview(name: str, to: str | None, decoded: bool) -> None:
    """Write a picture of an artifact, one row a class: its stored images, or what they become."""
    from ddhub import hub
    from ddhub.manifest import PREVIEW, read_bytes, read_manifest

    folder = hub.resolve(name)
    manifest = read_manifest(folder)
    path = Path(to or f"{manifest.name}{'-decoded' if decoded else ''}.png")
    if path.suffix.lower() != ".png":
        raise UsageError(f"{path} does not end in .png; choose another --to")
    _write(path, _decoded(folder) if decoded else read_bytes(folder / PREVIEW))
    say(str(path))


@cli.command()
@_names
@click.option("--model", default="convnet3", show_default=True, help="The student (ddhub.models.names).")
@click.option("--protocol", help="A named protocol; the FIRST artifact's own, for all, if not given.")
@click.option("--epochs", type=click.IntRange(min=1), help="Instead of the protocol's.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="The first seed.")
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="How many, from it on.")
@click.option("--test", metavar="SOURCE", help="Test data; each artifact's own if not given.")
@click.option("--data", metavar="ROOT", help="Folder of real data; DDHUB_DATA, then the Hub, if not given.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, …; auto is a GPU where there is one.")
@click.option("--precision", default="auto", show_default=True, help="bf16, fp32; auto is the faster one.")
@click.option("--record", is_flag=True, help="Add each result to its artifact; seeds already there are not repeated.")
@_json
def train(
    names: tuple[str, ...],
    model: str,
    protocol: str | None,
    epochs: int | None,
    seed: int,
    seeds: int,
    test: str | None,
    data: str | None,
    device: str,
    precision: str,
    record: bool,
    as_json: bool,
) -> None:
    """Train students on artifacts under one protocol, and score them after the last epoch."""
    from dataclasses import asdict, replace

    from ddhub import hub, results, sources
    from ddhub.artifact import Artifact
    from ddhub.protocols import Protocol
    from ddhub.protocols import protocol as named
    from ddhub.training import train as fit

    entries = [(folder, results.read(folder)) for folder in dict.fromkeys(map(hub.resolve, names))]
    plan = named(protocol) if protocol else Protocol.from_json(entries[0][1].manifest.protocol)
    if epochs not in (None, plan.epochs):
        plan = replace(plan, epochs=epochs, name=f"{plan.name}+epochs={epochs}")
    wanted = dict.fromkeys(test or entry.manifest.dataset for _, entry in entries)
    tests = {name: sources.open_source(name, "test", root=data) for name in wanted}
    means = []
    for folder, entry in entries:
        manifest = entry.manifest
        scored_on = tests[test or manifest.dataset]
        loaded = hub.load(folder, device=device)
        mine = (plan.digest, scored_on.fingerprint, model)
        old = [mean for mean in entry.means() if (*mean.setting, mean.first.model) == mine] if record else []
        found = {run.seed: run for mean in old for run in mean.runs}
        runs = []
        for number in range(seed, seed + seeds):
            result = found.get(number)
            if not result:
                _, result = fit(
                    loaded, model, protocol=plan, seed=number, test=scored_on, device=device, precision=precision
                )
                if record:
                    Artifact.open(folder, verify=False).add_result(asdict(result))
            note = "recorded before, not trained again" if number in found else f"{result.seconds:.1f} s"
            say(f"{manifest.name}, {model}, seed {number}: {result.accuracy:.2f} % ({note})", err=as_json)
            runs.append(result)
        means.append(results.Mean(tuple(runs)))
    if as_json:
        students = [asdict(run) for mean in means for run in mean.runs]
        print_json({"results": students, "means": [mean.to_json() for mean in means]})
        return
    say(f"last epoch, protocol {plan.name} ({plan.digest}):")
    for mean in means:
        say(f"{mean.first.artifact}, {_mean(mean)}")


@cli.command("card")
@_names
@click.option("--to", metavar="FOLDER", help="Also write cards, previews and the leaderboard of all artifacts there.")
def card_(names: tuple[str, ...], to: str | None) -> None:
    """Write README.md into artifacts' folders, from their manifests and results."""
    from ddhub import card, hub
    from ddhub.manifest import PREVIEW, README, read_bytes, seal_text

    shelf = _shelf(names)
    entries = [entry for _, entry in shelf]
    named = {hub.resolve(name) for name in names}
    if missing := named - {folder for folder, _ in shelf}:
        raise UsageError(f"{min(missing)} has the name of another one given; render one of them at a time")
    for folder, entry in shelf:
        text = seal_text(card.render(entry, entries)).encode()
        copy = Path(to) / entry.manifest.name if to else None
        if folder in named:
            _write(folder / README, text)
            say(str(folder / README))
        if copy:
            _write(copy / README, text)
            _write(copy / PREVIEW, read_bytes(folder / PREVIEW))
            say(str(copy / README))
    if to:
        _write(Path(to) / README, card.leaderboard(entries).encode())
        say(str(Path(to) / README))


def _shelf(names: Iterable[str] = ()) -> list[tuple[Path, Entry]]:
    """Folders and contents of the bundled artifacts and of those named, which hide bundled namesakes."""
    from ddhub import hub, results

    shelf = {name: (hub.BUNDLED / name, results.read(hub.BUNDLED / name)) for name in hub.catalog()}
    for folder in map(hub.resolve, names):
        entry = results.read(folder)
        shelf[entry.manifest.name] = (folder, entry)
    return list(shelf.values())


def _facts(entry: Entry) -> dict[str, Any]:
    """What `info` prints, and `list` in part."""
    from ddhub.protocols import Protocol

    m = entry.manifest
    recipe = {key: m.recipe[key] for key in ("path", "preset", "seed")}
    return {
        **{key: getattr(m, key) for key in ("name", "digest", "method", "dataset", "ipc", "license")},
        "classes": list(m.classes),
        "image_size": list(m.image_size),
        "decoder": m.decoder,
        "labels": m.labels,
        "protocol": {**m.protocol, "digest": Protocol.from_json(m.protocol).digest},
        "recipe": {**recipe, "commit": m.recipe["run"].get("commit", "")},
        "source": m.source,
        "teachers": m.teachers,
        "tensor_bytes": m.bytes_by_tensor(),
        "bytes": entry.bytes,
        "bits_per_class": m.bits_per_class(),
        "deviations": m.deviations,
        "results": [mean.to_json() for mean in entry.means()],
    }


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


def _write(path: Path, data: bytes) -> None:
    from ddhub._files import replace_file

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, data)
    except OSError as error:
        raise DDHubError(f"{path}: cannot be written ({error.strerror}); free space or choose another place") from None


def _mean(mean: Mean) -> str:
    return f"{mean.first.model}: {mean.text} % (n = {len(mean.runs)}) on {_test(mean.first)}"


def _test(result: Result) -> str:
    return f"{result.test}, {result.test_images:,} test images"


if __name__ == "__main__":
    main()
