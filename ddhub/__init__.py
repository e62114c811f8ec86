"""ddhub: distilled datasets that load by name and train a student in three lines.

data = ddhub.load("cifar10-infer-ipc10")
model, result = ddhub.train(data, "resnet18", seed=0)
ddhub.evaluate(model, "cifar10")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "DDHubError",
    "Protocol",
    "__version__",
    "catalog",
    "class_complexity",
    "complexity_score",
    "evaluate",
    "load",
    "net_complexity",
    "protocol",
    "recovery_ratio",
    "train",
]

if TYPE_CHECKING:
    from ddhub.artifact.bundled import catalog
    from ddhub.errors import DDHubError
    from ddhub.hub import load
    from ddhub.measures.complexity import class_complexity, complexity_score, net_complexity, recovery_ratio
    from ddhub.protocols.named import protocol
    from ddhub.protocols.protocol import Protocol
    from ddhub.training.loop import train
    from ddhub.training.scoring import evaluate

_HOME = {
    "Artifact": "artifact.folder",
    "DDHubError": "errors",
    "DistilledData": "training.batches",
    "Protocol": "protocols.protocol",
    "Result": "artifact.results",
    "catalog": "artifact.bundled",
    "class_complexity": "measures.complexity",
    "complexity_score": "measures.complexity",
    "evaluate": "training.scoring",
    "load": "hub",
    "net_complexity": "measures.complexity",
    "open_source": "sources.source",
    "protocol": "protocols.named",
    "push": "publish.push",
    "recovery_ratio": "measures.complexity",
    "train": "training.loop",
}


def __getattr__(name: str) -> Any:
    # Lazy (PEP 562): `import ddhub` and `ddhub list` must not pay for torch. No module may have the name of one of
    # these functions: importing it would put the module in the function's place.
    if name not in _HOME:
        raise AttributeError(f"module 'ddhub' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f"ddhub.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
