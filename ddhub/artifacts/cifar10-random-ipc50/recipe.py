"""Random selection: ipc real images of every class, drawn uniformly, with their hard labels.

The baseline of every card: what the same bytes buy without any distillation.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ddhub.artifact import Artifact
from ddhub.errors import UsageError
from ddhub.protocols import protocol
from ddhub.sources import Source
from recipes import Plan, Run, Step, generator, select


@dataclass(frozen=True, kw_only=True)
class Config:
    dataset: str = field(default="cifar10", metadata={"help": "real data to draw from"})
    ipc: int = field(default=10, metadata={"help": "images per class"})
    seed: int = field(default=0, metadata={"help": "of the draw"})
    protocol: str = field(default="infer-static", metadata={"help": "recommended to students"})

    def __post_init__(self) -> None:
        if self.ipc < 1:
            raise UsageError(f"ipc is {self.ipc}; use --ipc 1 or more")


PRESETS = {
    "cifar10-ipc10": Config(),
    "cifar10-ipc50": Config(ipc=50),
    "cifar10-ipc10-cpu": Config(protocol="infer-static-50"),
}
SMOKE = Config(dataset="cifar10-mini", ipc=2)


def plan(cfg: Config, source: Source, run: Run) -> Plan:
    """One stage that reads labels only (see `recipes.Plan`)."""
    size = cfg.ipc * len(source.classes) * (source.images[0].numel() + 1)
    return Plan(steps=[Step(stage="select", images=0)], artifact_bytes=size)


def distill(cfg: Config, run: Run) -> Artifact:
    source = run.source(cfg.dataset, "train")
    rows = run.stage("select", lambda: {"rows": select(source, cfg.ipc, generator(cfg.seed, "select"))})["rows"]
    return run.write(
        images=source.images[rows],
        image_labels=source.labels[rows],
        tensors={},
        decoder={"kind": "identity"},
        labels={"kind": "hard"},
        protocol=protocol(cfg.protocol),
        citation="",
        deviations=[],
        paper=[],
    )
