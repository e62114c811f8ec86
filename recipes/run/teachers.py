"""Teachers: nets trained on the real images, each one unit of the recipe that asks for them.

A teacher is a student of real data: the same loop, by default under the `squeeze` protocol (SGD 0.1, momentum 0.9,
weight decay 5e-4, cosine over 200 epochs, batch 128, random crop and flip), checkpointed after every epoch. 0 epochs
ask for `timm:NAME` with the weights that timm has for the classes of ImageNet-1k.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ddhub import models
from ddhub import teachers as artifacts
from ddhub.data.about import About
from ddhub.data.decode import Identity
from ddhub.data.labels import Hard
from ddhub.errors import SourceError, UsageError, first_line
from ddhub.protocols import named
from ddhub.protocols.protocol import Protocol
from ddhub.sources.source import Source
from ddhub.training import ranks
from ddhub.training.batches import DistilledData
from ddhub.training.devices import describe, versions
from ddhub.training.loop import fit
from ddhub.training.scoring import evaluate
from recipes.run.run import Run

PRETRAINED = "pretrained"  # what the facts of a teacher of 0 epochs call its protocol


def real_data(source: Source, plan: Protocol) -> DistilledData:
    """All images of a source as training batches with hard labels."""
    shape = source.images.shape
    about = About(
        name=source.name,
        digest=source.fingerprint,
        dataset=source.name,
        classes=source.classes,
        image_size=(shape[1], shape[2], shape[3]),
        mean=source.mean,
        std=source.std,
    )
    images = Identity(source.images, [(0, 1)] * shape[1])
    return DistilledData(images, Hard(source.labels, len(source.classes)), plan, about)


def teachers(
    run: Run, source: Source, names: Sequence[str], epochs: int, seed: int, *, protocol: str = "squeeze"
) -> tuple[list[nn.Module], list[dict[str, Any]]]:
    """Teachers of several architectures, in order, frozen and in eval mode, and what the card says of each.

    Args:
        run: each teacher is one of its stages.
        source: the training images.
        names: architectures; with 0 epochs `timm:NAME`.
        epochs: on the source's images; 0 is timm's pretrained weights of ImageNet-1k.
        seed: of initial weights, dropout and views.
        protocol: how they are trained, by name.

    Returns:
        The nets on the run's device, and {model, accuracy (percent), epochs, protocol, seed} of each.

    Raises:
        TrainingError: a loss that is not a number.
        UsageError: an unknown model, or pretrained weights for other classes or another normalisation.
        SourceError: no test images, or no pretrained weights.
    """
    size, channels = source.images.shape[2], source.images.shape[1]
    nets = [models.build(name, classes=len(source.classes), size=size, channels=channels) for name in names]
    if epochs:
        plan = named.protocol(protocol, epochs=epochs)
        settings = [{"model": name, "seed": seed, "protocol": plan.to_json()} for name in names]
        works = [partial(_train, run, source, plan, name, seed, s) for name, s in zip(names, settings, strict=True)]
        records = [{"model": name, "epochs": epochs, "protocol": plan.name, "seed": seed} for name in names]
    else:
        weights = [_weights(name, source, len(source.classes)) for name in names]
        settings = [{"weights": cfg.hf_hub_id} for cfg in weights]
        works = [partial(_fetch, run, source, cfg) for cfg in weights]
        records = [
            {"model": f"timm:{cfg.architecture}.{cfg.tag}", "epochs": 0, "protocol": PRETRAINED, "seed": seed}
            for cfg in weights
        ]
    stages = [(f"teacher-{name}", fn, s) for name, fn, s in zip(names, works, settings, strict=True)]
    for net, fact, state in zip(nets, records, run.stages(stages), strict=True):
        fact["accuracy"] = float(state["test_accuracy"])
        net.load_state_dict({key: value for key, value in state.items() if key != "test_accuracy"})
        net.to(run.device, memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]
    return nets, records


def of_imagenet(run: Run, source: Source, name: str) -> nn.Module:
    """timm's net of the 1,000 classes of ImageNet-1k, whatever those of a source of it; as `teachers` returns nets.

    Args:
        run: the weights are one of its stages.
        source: images of ImageNet.
        name: `timm:NAME`.

    Raises:
        UsageError, SourceError: as `teachers` with 0 epochs.
    """
    cfg = check_of_imagenet(source, name)
    state = run.stage(f"teacher-{name}", lambda: _download(source, cfg).state_dict(), {"weights": cfg.hf_hub_id})
    net = models.build(name, classes=1000, channels=source.images.shape[1])
    net.load_state_dict(state)
    return net.to(run.device).eval().requires_grad_(False)


def check_of_imagenet(source: Source, name: str) -> Any:
    """What timm says of the weights that `of_imagenet` takes. UsageError unless they fit the source's images."""
    return _weights(name, source, 1000)


def _test(run: Run, source: Source) -> Source:
    return run.source(source.address, "test", source.images.shape[2])


def _train(
    run: Run, source: Source, plan: Protocol, name: str, seed: int, settings: dict[str, Any]
) -> dict[str, Tensor]:
    test = _test(run, source)  # first, as training takes hours
    checkpoint = run.path(f"teacher-{name}", settings).with_suffix(".checkpoint")
    net, _, _ = fit(real_data(source, plan).to(run.device), name, seed, run.precision, checkpoint)
    state = _scored(run, net, test)
    checkpoint.unlink(missing_ok=True)
    return state


def _scored(run: Run, net: nn.Module, test: Source) -> dict[str, Tensor]:
    accuracy = evaluate(net, test, device=run.device, precision=run.precision)
    return {**net.state_dict(), "test_accuracy": torch.tensor(accuracy)}


def _weights(name: str, source: Source, classes: int) -> Any:
    """What timm says of the weights it has for a model. UsageError unless they fit the source and the classes."""
    if not name.startswith("timm:"):
        raise UsageError(f"teacher {name!r} has no pretrained weights; use timm:NAME, or train it for 1 epoch or more")
    from timm.models import get_pretrained_cfg  # `models.build` has seen that timm is there

    cfg = get_pretrained_cfg(name.removeprefix("timm:"))
    if cfg is None or not cfg.hf_hub_id or cfg.num_classes != classes:
        raise UsageError(
            f"timm has no weights of {name!r} for the {classes} classes of {source.name}; "
            "name another model, or train it for 1 epoch or more"
        )
    if (cfg.mean, cfg.std) != (source.mean, source.std):
        raise UsageError(
            f"the weights of {name!r} are for mean {cfg.mean} and std {cfg.std}, {source.name} is normalised by "
            f"{source.mean} and {source.std}; name another model"
        )
    return cfg


def _fetch(run: Run, source: Source, cfg: Any) -> dict[str, Tensor]:
    test = _test(run, source)  # first, as the weights may take a while
    return _scored(run, _download(source, cfg), test)


def _download(source: Source, cfg: Any) -> nn.Module:
    import timm

    try:
        net: nn.Module = timm.create_model(
            f"{cfg.architecture}.{cfg.tag}", pretrained=True, in_chans=source.images.shape[1]
        )
    except Exception as error:  # no network, no cache, no repository: all kinds of errors
        raise SourceError(
            f"cannot get the weights {cfg.hf_hub_id} ({first_line(error)}); check the network, or set HF_HOME to a "
            "cache that has them"
        ) from error
    return net


def publish(
    run: Run, source: Source, nets: Sequence[nn.Module], records: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Write each teacher as a folder beside the artifact: `[{name, digest}]` for labels of kind `teacher`.

    Of many ranks, rank 0 writes. A folder that holds the same teacher is left as it is.

    Args:
        run: the folders lie beside its OUT.
        source: the training images.
        nets, records: what `teachers` returned for `source`.

    Raises:
        UsageError: a folder of that name that holds another teacher or anything else.
    """
    test, shape, published = _test(run, source), source.images.shape, []
    for net, fact in zip(nets, records, strict=True) if ranks.rank() == 0 else ():
        pretrained = _weights(fact["model"], source, len(source.classes)) if fact["epochs"] == 0 else None
        plan = named.protocol(fact["protocol"].partition("+")[0], epochs=fact["epochs"]) if not pretrained else None
        name = _name(source, fact)
        digest = artifacts.write(
            run.out.parent / name,
            net,
            **{key: fact[key] for key in ("model", "accuracy", "epochs", "seed")},
            dataset=source.name,
            classes=source.classes,
            image_size=[*shape[1:]],
            mean=source.mean,
            std=source.std,
            test={
                "name": test.name, "label": test.label, "images": len(test.labels), "fingerprint": test.fingerprint,
            },
            protocol=plan.to_json() if plan else {},
            source={
                "name": source.name,
                "hub_id": source.hub_id,
                "split": source.split,
                "fingerprint": "" if pretrained else source.fingerprint,
                "notes": f"weights {pretrained.hf_hub_id}" if pretrained else source.notes,
                "license": source.license,
            },
            license=(pretrained.license or source.license) if pretrained else source.license,
            run={
                "device": describe(run.device),
                "precision": run.precision,
                "versions": versions(),
                "seconds": run.seconds.get(f"teacher-{fact['model']}", 0.0),
            },
        )  # fmt: skip
        published.append({"name": name, "digest": digest})
    return ranks.gather_all(published)[0]


def _name(source: Source, fact: dict[str, Any]) -> str:
    """The name of a published teacher, such as `cifar10-resnet18-w16-e4-s0`."""
    training = f"e{fact['epochs']}-s{fact['seed']}" if fact["epochs"] else PRETRAINED
    return re.sub(r"[^a-z0-9._]+", "-", f"{source.name}-{fact['model']}-{training}".lower())[:96]
