"""What teachers say of batches, recorded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from recorded import Played
from repeated import Repeated
from test_training import TINY
from torch import Tensor, nn

from ddhub import models
from ddhub.data.labels import Teacher
from ddhub.sources.source import open_source
from ddhub.training import batches
from ddhub.training.batches import DistilledData
from ddhub.training.devices import computing
from ddhub.training.relabel import relabel
from recipes.run.teachers import real_data

CPU = torch.device("cpu")


def net(name: str = "convnet3-bn-w8", seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return models.build(name, classes=10)


def data(*nets: nn.Module, **changes: Any) -> DistilledData:
    """40 images in batches of 16; nets, if there are any, label."""
    source = open_source("cifar10-mini")
    few = replace(source, images=source.images[:40], labels=source.labels[:40])
    made = real_data(few, replace(TINY, epochs=5, batch_size=16, **changes))
    return made.using(labels=Teacher(nets, 4.0)) if nets else made


@pytest.fixture
def answering(recorded: list[Played], repeated: list[Repeated], monkeypatch: pytest.MonkeyPatch) -> list[Repeated]:
    """Recordings of teachers on the CPU."""
    monkeypatch.setattr(batches, "captures", lambda device: True)
    return repeated


def targets(of: DistilledData, precision: str = "fp32") -> list[Tensor]:
    with computing(CPU, precision):
        return [y for epoch in range(5) for _, y in of.batches(1, epochs=epoch + 1, start=3 * epoch)]


@pytest.mark.parametrize("batch_stats", [False, True])
def test_recorded_teachers_label_as_eager_ones(batch_stats: bool, answering: list[Repeated]) -> None:
    of = data(net(), net("convnet3-w8", 1), teacher_batch_stats=batch_stats)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "captures", lambda device: False)
        eager = targets(of)
    assert not answering
    found = targets(of)  # all kept: what a batch is given is its own
    # Over all epochs, two whole batches and one of 8 in each; three of each run first.
    assert sorted((one.shapes[0][0], one.calls) for one in answering) == [(8, 2), (16, 7)]
    assert all(torch.equal(one, other) for one, other in zip(found, eager, strict=True))
    again = targets(of)
    assert len(answering) == 2 and all(torch.equal(one, other) for one, other in zip(again, eager, strict=True))


def test_recordings_belong_to_the_kernels_they_were_made_with(
    answering: list[Repeated], monkeypatch: pytest.MonkeyPatch
) -> None:
    of = data(net())
    targets(of)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", not torch.backends.cudnn.allow_tf32)
    targets(of)
    assert len(answering) == 4


def test_teachers_of_ones_own_and_other_labels_are_not_recorded(answering: list[Repeated]) -> None:
    own = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    targets(data(own))
    targets(data())
    assert not answering


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("spec", [{"kind": "soft"}, {"kind": "dbr", "reading": "view"}], ids=["soft", "dbr"])
def test_views_are_relabelled_by_recordings_as_step_by_step(
    spec: dict[str, Any], precision: str, repeated: list[Repeated], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ddhub.training.relabel._IMAGES", 16)
    spec = {**spec, "seed": 1, "temperature": 2.0}

    def stored(how: str) -> dict[str, Tensor]:
        with computing(CPU, how):
            return relabel(data(), [net()], spec, epochs=5, precision=precision, progress=False)

    eager = stored("exact")
    assert not repeated
    found, times = stored("fp32"), 2 if spec["kind"] == "dbr" else 1
    assert sorted((one.shapes[0][0], one.calls) for one in repeated) == [(8 * times, 2), (16 * times, 7)]
    for name, value in eager.items():
        assert torch.equal(found[name], value)
