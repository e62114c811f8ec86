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
    from ddhub.complexity import class_complexity, complexity_score, net_complexity, recovery_ratio
    from ddhub.errors import DDHubError
    from ddhub.hub import catalog, load
    from ddhub.protocols import Protocol, protocol
    from ddhub.training import evaluate, train

_HOME = {
    "DDHubError": "errors",
    "Protocol": "protocols",
    "catalog": "hub",
    "class_complexity": "complexity",
    "complexity_score": "complexity",
    "evaluate": "training",
    "load": "hub",
    "net_complexity": "complexity",
    "protocol": "protocols",
    "recovery_ratio": "complexity",
    "train": "training",
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
