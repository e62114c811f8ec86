"""`ddhub train`: train students on artifacts under one protocol.

    ddhub train cifar10-infer-ipc10 --baseline --model resnet18 --seeds 3 --record --data ROOT
    torchrun --nproc-per-node 2 -m ddhub train cifar10-infer-ipc10 --seeds 4

Under torchrun the students are divided among the ranks; only rank 0 prints and records.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ddhub.cli.options import (
    complete_models,
    complete_sources,
    complete_teachers,
    json_option,
    names_argument,
    protocol_option,
)
from ddhub.cli.printing import print_json, say

if TYPE_CHECKING:
    from ddhub.artifact.results import Entry, Result
    from ddhub.protocols.protocol import Protocol


@click.command()
@names_argument
@click.option(
    "--model",
    default="convnet3",
    show_default=True,
    help="The student: a model of ddhub, or timm:NAME.",
    shell_complete=complete_models,
)
@protocol_option("The protocol of all students: {protocols}. [default: that of the first artifact]")
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    help="Number of epochs, instead of the protocol's; milestones of the learning rate move in proportion.",
)
@click.option("--batch-size", type=click.IntRange(min=1), help="Batch size, instead of the protocol's.")
@click.option(
    "--teacher",
    "teachers",
    metavar="NAME",
    multiple=True,
    help="A teacher that labels every batch, instead of the stored labels; several are averaged.",
    shell_complete=complete_teachers,
)
@click.option("--baseline", is_flag=True, help="Also train on random selection with as many images per class.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="The first seed.")
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="The number of seeds, counted up from the first.",
)
@click.option(
    "--test",
    metavar="SOURCE",
    help="Test data. [default: the data set of each artifact]",
    shell_complete=complete_sources,
)
@click.option("--data", metavar="ROOT", help="Folder of real data. [default: DDHUB_DATA, else the Hub]")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, …; auto is a GPU if there is one.")
@click.option(
    "--precision",
    default="auto",
    show_default=True,
    help="bf16, fp32 or exact; auto is the faster of the first two on the device.",
)
@click.option("--exact", "precision", flag_value="exact", help="The same numbers every time; slower on a GPU.")
@click.option("--record", is_flag=True, help="Add each result to its artifact; recorded seeds are not trained again.")
@json_option
def train(
    names: tuple[str, ...],
    model: str,
    protocol: str | None,
    epochs: int | None,
    batch_size: int | None,
    teachers: tuple[str, ...],
    baseline: bool,
    seed: int,
    seeds: int,
    test: str | None,
    data: str | None,
    device: str,
    precision: str,
    record: bool,
    as_json: bool,
) -> None:
    """Train students on artifacts under one protocol, and print their test accuracies after the last epoch."""
    from dataclasses import asdict
    from functools import lru_cache, partial

    from ddhub import hub
    from ddhub.artifact import results
    from ddhub.artifact.folder import Artifact
    from ddhub.cli.printing import mean_text
    from ddhub.remote.cache import writable
    from ddhub.remote.find import resolve
    from ddhub.training import ranks
    from ddhub.training.loop import train as fit
    from ddhub.training.open import test_images

    folders = [resolve(name) for name in names]
    entries = {folder: results.read(folder) for folder in (map(writable, folders) if record else folders)}
    plan = _plan(*next(iter(entries.items())), protocol, epochs=epochs, batch_size=batch_size, teachers=teachers)
    if baseline:
        entries |= _baselines(folders, entries)
    wanted = {folder: (x.manifest.dataset, x.manifest.image_size[1]) for folder, x in entries.items()}
    opened = {x: test_images(test, x[0], root=data, size=x[1]) for x in dict.fromkeys(wanted.values())}
    units = [(folder, number) for folder in entries for number in range(seed, seed + seeds)]
    runs: dict[tuple[Path, int], Result] = {}
    for folder, entry in entries.items() if record else ():
        recorded = entry.recorded(plan.digest, model, opened[wanted[folder]].fingerprint)
        runs |= {(folder, number): x for number, x in recorded.items() if (folder, number) in units}
    load = lru_cache(maxsize=1)(partial(hub.load, device=ranks.device(device)))

    def student(folder: Path, number: int) -> Result:
        distilled = load(folder)
        _, result = fit(
            distilled,
            model,
            protocol=plan,
            seed=number,
            test=opened[wanted[folder]],
            device=distilled.device,
            precision=precision,
            progress=ranks.rank() == 0,
        )
        return result

    def tell(result: Result, note: str) -> None:
        if ranks.rank() == 0:
            say(f"{result.artifact}, {model}, seed {result.seed}: {result.accuracy:.2f} % ({note})", err=as_json)

    for result in runs.values():
        tell(result, "recorded before, not trained again")
    left = [unit for unit in units if unit not in runs]
    with ranks.group():
        for first in range(0, len(left), ranks.world()):  # a student a rank, then all are recorded at once
            now = left[first : first + ranks.world()]
            done = ranks.gather([student(*unit) for unit in ranks.share(now)])
            runs |= zip(now, done, strict=True)
            for (folder, _), result in zip(now, done, strict=True):
                if record and ranks.rank() == 0:
                    Artifact.open(folder, verify=False).add_result(asdict(result))
                tell(result, f"{result.seconds:.1f} s")
    if ranks.rank():
        return
    means = [results.Mean(tuple(runs[folder, x] for x in range(seed, seed + seeds))) for folder in entries]
    if as_json:
        students = [asdict(run) for mean in means for run in mean.runs]
        print_json({"results": students, "means": [mean.to_json() for mean in means]})
        return
    say(f"last epoch, protocol {plan.name} ({plan.digest}):")
    for mean in means:
        say(f"{mean.first.artifact}, {mean_text(mean)}")


def _plan(folder: Path, entry: Entry, name: str | None, *, teachers: Sequence[str], **changes: Any) -> Protocol:
    """The protocol of all students: a named one, or that of the first artifact, with the changes of the options."""
    from ddhub.protocols.named import changed, protocol
    from ddhub.protocols.protocol import Protocol
    from ddhub.teachers import identify

    base = protocol(name) if name else Protocol.from_json(entry.manifest.protocol)
    wanted = {**changes, "teachers": tuple(identify(x, near=folder.resolve().parent) for x in teachers) or None}
    return changed(base, **{key: value for key, value in wanted.items() if value is not None})


def _baselines(named: Sequence[Path], entries: dict[Path, Entry]) -> dict[Path, Entry]:
    """The baselines of the artifacts in `entries`: random selections, named, bundled or in folders beside them.

    Raises:
        UsageError: an artifact has no baseline.
    """
    from ddhub.artifact.bundled import around
    from ddhub.cards.comparison import compare_with, is_random, no_baseline

    known = around(entries, named)
    baselines: dict[Path, Entry] = {}
    for folder, entry in entries.items():
        m = entry.manifest
        if is_random(m):
            continue
        baseline = compare_with(entry, known.values()).baseline
        if baseline is None:
            raise no_baseline(m, folder)
        baselines |= {path: x for path, x in known.items() if x is baseline}
    return baselines
