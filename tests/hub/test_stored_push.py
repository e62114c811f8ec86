"""Labels stored per view, published and downloaded again: still what the teacher says of the views a student sees."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_stored import CLASSES, COUNT, DBR, EPOCHS, PLAN, asked, hard, teacher, write
from torch import Tensor

import ddhub
from ddhub.artifact.folder import Artifact
from ddhub.publish.push import push
from ddhub.training.relabel import relabel
from hub.server import DummyHub
from hub.shelf import record

pytestmark = pytest.mark.usefixtures("hasty")


def shelf(folder: Path, distances: dict[str, Tensor]) -> Path:
    """An artifact with two distances a view that is better than random selection, which lies beside it."""
    drawn = write(folder / "tiny-random", {"kind": "hard"}, {}, method="random-real")
    made = write(folder / "tiny-dbr", DBR, distances)
    record(Artifact.open(drawn), 30.0, 31.0)
    record(Artifact.open(made), 40.0, 41.0)
    return made


def test_distances_that_were_downloaded_are_those_of_the_teacher(signed_in: DummyHub, tmp_path: Path) -> None:
    net = teacher()
    distances = relabel(hard(), [net], DBR, epochs=EPOCHS)
    push(shelf(tmp_path, distances), "lab/tiny-dbr")
    data, seen = ddhub.load("lab/tiny-dbr"), set()
    assert torch.equal(data.labels.distances, distances["labels.distances"])
    for view, x, y in data.steps(PLAN, seed=3):
        rows, log_p = torch.arange(len(x)), torch.from_numpy(asked(net, x, DBR["temperature"]))
        own, partner = CLASSES[view.items], CLASSES[view.partner]
        wanted = -torch.stack([log_p[rows, own], log_p[rows, partner]], 1)
        torch.testing.assert_close(y[:, 3:].double(), wanted.clamp(max=20), rtol=6e-4, atol=1e-5)
        seen |= {(view.epoch, int(item)) for item in view.items}
    assert seen == {(epoch, item) for epoch in range(EPOCHS) for item in range(COUNT)}
