"""Labels stored per view on two processes: each rank finds, for its share of a batch, what the teacher says of it.

One process is in `test_stored.py`.
"""

from __future__ import annotations

from pathlib import Path

import forked
import torch
from test_stored import COUNT, DBR, EPOCHS, hard, teacher, write

from ddhub.training import relabel

SHARED = """
import sys
sys.path[:0] = ["tests", "tests/artifact", "tests/data", "tests/training"]
from dataclasses import replace
import torch
import ddhub
from ddhub import models
from ddhub.training import ranks
from ddhub.training.relabel import relabel
from test_stored import CLASSES, COUNT, DBR, EPOCHS, PLAN, hard
torch.set_num_threads(1)
folder, weights = sys.argv[1:]
net = models.build("convnet3-bn-w8", classes=3, size=8).eval().to(memory_format=torch.channels_last)
net.load_state_dict(torch.load(weights))
with ranks.group():
    parts = ranks.share(range(EPOCHS))
    made = [relabel(hard(), [net], DBR, epochs=range(epoch, epoch + 1))["labels.distances"] for epoch in parts]
    made = torch.cat(ranks.gather(made))
    data, found, far = ddhub.load(folder), [], 0.0
    for view, x, y in data.steps(PLAN, seed=8, start=3, rank=ranks.rank(), world=ranks.world()):
        own, partner, lam = CLASSES[view.items], CLASSES[view.partner], view.weight
        log_p = torch.log_softmax(net(x).double() / DBR["temperature"], 1)
        rows = torch.arange(len(x))
        wanted = -torch.stack([log_p[rows, own], log_p[rows, partner]], 1)
        far = max(far, float(((y[:, 3:] - wanted).abs() / wanted.clamp(min=1e-2)).max()))
        assert torch.equal(y[:, :3], torch.stack([own, partner, lam], 1).float())
        found += [(view.epoch, int(item)) for item in view.items]
    every, farthest = ranks.gather_all(found), ranks.gather_all(far)
if ranks.rank() == 0:
    assert torch.equal(made, data.labels.distances)
    seen = [key for own in every for key in own]
    assert len(seen) == len(set(seen)) and set(seen) == {(e, i) for e in range(1, EPOCHS) for i in range(COUNT)}
    print(len(every), max(farthest) < 6e-4)
ranks.leave(0)
"""


def test_two_ranks_replay_the_labels_of_their_shares(tmp_path: Path) -> None:
    """From the second epoch on, of batches of 8: `start` needs no state on any rank."""
    net = teacher()
    tensors = relabel.relabel(hard(), [net], DBR, epochs=EPOCHS)
    folder = write(tmp_path / "made", DBR, tensors)
    assert tensors["labels.distances"].shape == torch.Size([EPOCHS, COUNT, 2])
    torch.save(net.state_dict(), tmp_path / "net.pt")
    done = forked.together(forked.ranks(2, "-c", SHARED, folder, tmp_path / "net.pt"))
    assert (done.returncode, done.stdout) == (0, "2 True\n"), done.stderr
