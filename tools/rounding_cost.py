"""What 8 bits cost: students of the images as `recipes.edf` learned them, in 32-bit floats, and their labels too.

    python -m tools.rounding_cost ARTIFACT ARTIFACT.work/match-49-0123456789ab.safetensors --student convnet3 --seeds 3

prints the accuracy of each seed under the artifact's protocol; that of `ddhub train ARTIFACT` stands beside it. These
images are not the artifact's, so that it is no result of it: `--record` puts the mean among the facts of its run, which
are on its card and not in its digest.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

import ddhub
from ddhub.artifact.manifest import MANIFEST, read_manifest
from ddhub.artifact.results import Mean, Result
from ddhub.cli.program import guarded
from ddhub.data.labels import Soft
from ddhub.errors import UsageError
from ddhub.io.files import locked, replace_file
from ddhub.training.batches import DistilledData


class Floats(nn.Module):
    """Item *i* is image *i*: `images` float `[N, C, H, W]` in unit scale."""

    kind = "floats"
    images: Tensor

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.register_buffer("images", images)

    def __len__(self) -> int:
        return len(self.images)

    def image_of(self, items: Tensor) -> Tensor:
        """The stored image `[B]` that each item comes from: itself."""
        return items

    def forward(self, items: Tensor) -> Tensor:
        return self.images.index_select(0, items)


def learned(data: DistilledData, stage: Path) -> DistilledData:
    """An artifact's data with the images, and soft labels, of the last stage that it was made of.

    Raises:
        UsageError: a stage of other images.
    """
    about = data.about
    try:
        state = load_file(stage)
    except (SafetensorError, OSError):
        state = {}
    if "step" not in state or float(state["step"]) != about.lr:
        raise UsageError(f"{stage} does not hold the images of {about.name}; name the last of its stages match-N")
    std, mean = (torch.tensor(values).view(-1, 1, 1) for values in (about.std, about.mean))
    labels = Soft(state["labels"], data.labels.temperature) if isinstance(data.labels, Soft) else data.labels
    return DistilledData(Floats(state["images"] * std + mean), labels, data.protocol, about)  # type: ignore[arg-type]


def note(folder: Path, mean: Mean) -> str:
    """Put the accuracy of students of the floats among the facts of an artifact's run; the words that stand there.

    Raises:
        ArtifactError: no artifact, or one that is damaged.
    """
    key, value = f"accuracy of {mean.first.model} without rounding, {mean.first.protocol}", f"{mean.text} %"
    value += f" (n = {len(mean.runs)})"
    with locked(folder):
        manifest = read_manifest(folder)
        run = manifest.recipe["run"]
        run = {**run, "measured": {**run.get("measured", {}), key: value}}
        noted = replace(manifest, recipe={**manifest.recipe, "run": run})
        replace_file(folder / MANIFEST, noted.render().encode())
    return f"{key}: {value}"


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.argument("artifact")
@click.argument("stage", type=click.Path(exists=True, path_type=Path))
@click.option("--student", required=True, help="architecture")
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="students")
@click.option("--data", "root", type=click.Path(), help="root of the real data (or DDHUB_DATA)")
@click.option("--device", default="auto", show_default=True)
@click.option("--precision", default="auto", show_default=True)
@click.option("--record", is_flag=True, help="Put the mean among the facts of the artifact, a folder.")
def main(
    artifact: str, stage: Path, student: str, seeds: int, root: str | None, device: str, precision: str, record: bool
) -> None:
    data = learned(ddhub.load(artifact), stage)
    if record:
        read_manifest(artifact)  # a name will not do: found out before the students are trained
    results: list[Result] = []
    for seed in range(seeds):
        _, result = ddhub.train(data, student, seed=seed, root=root, device=device, precision=precision)
        click.echo(f"{student}, seed {seed}: {result.accuracy:.2f} % from floats")
        results.append(result)
    if record:
        click.echo(note(Path(artifact), Mean(tuple(results))))


if __name__ == "__main__":
    raise SystemExit(guarded(main, "python -m tools.rounding_cost"))
