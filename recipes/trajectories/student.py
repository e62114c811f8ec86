"""The student of many outer iterations: the batches it is shown, and the gradients of what it was shown.

    student = Student(flat, state["images"], state["labels"], device, crop=0.125)
    student.begin(images, labels, rows, ops, u)                      # an iteration
    match(flat, start, target, eta, student.shown, steps, student.give, moves=student.moves)
    student.pixels, student.logits                                   # its gradients by images and labels

Its work is captured steps (`ddhub.training.capture`), which are recorded once and serve all iterations. So what they
read and write stays in place: images, labels, and the sums of the gradients. The augmentation is recorded once for each
operation of DSA, the net's part, which takes most of the memory, once for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ddhub.data.dsa import dsa
from ddhub.data.transfer import sent
from ddhub.training.capture import Captured
from recipes.trajectories.adjoint import Moves
from recipes.trajectories.flat import Flat


class Student:
    """A net that is shown batches of images, each under one operation of DSA.

    Args:
        flat: the net.
        images, labels: tensors like those of an iteration, `[n, C, H, W]` and logits `[n, K]`.
        device: where it computes.
        crop: of DSA.
        active: false records nothing. Graphs of several steps need that: what is recorded is overwritten.

    Attributes:
        pixels, logits: the sums of what was given for the images and for the labels.
        moves: the steps of the net.
    """

    def __init__(
        self, flat: Flat, images: Tensor, labels: Tensor, device: torch.device, *, crop: float, active: bool = True
    ) -> None:
        self.flat, self.device, self.crop = flat, device, crop
        self.images, self.pixels = (torch.empty_like(images, device=device) for _ in range(2))
        self.labels, self.logits = (torch.empty_like(labels, device=device) for _ in range(2))
        self.moves = Moves(flat, device, active=active)
        self._show = Captured(self._shown, device, "the augmentation of a batch", active=active)
        self._take = Captured(self._taken, device, "the gradient of an augmentation", active=active)

    def begin(self, images: Tensor, labels: Tensor, rows: Sequence[Tensor], ops: Sequence[str], u: Tensor) -> None:
        """Show other images and labels from now on, and forget the gradients.

        Args:
            images, labels: all of them, on the device.
            rows: which images and labels each step has; draws may be on the CPU.
            ops: the operation of each step; none if there is no augmentation.
            u: DSA's table for each step, `[N, B, COLUMNS]`.
        """
        self.images.copy_(images)
        self.labels.copy_(labels)
        self.pixels.zero_()
        self.logits.zero_()
        self._rows = sent(torch.cat(list(rows)), self.device).split([len(part) for part in rows])
        self._ops, self._u = ops, sent(u, self.device)

    def shown(self, k: int) -> tuple[Tensor, Tensor]:
        """The images and labels of step k; they are overwritten by those of the next one."""
        rows, table, op = self._step(k)
        return self._show(rows, table, key=op), self.labels[rows]

    def give(self, k: int, dx: Tensor, dy: Tensor) -> None:
        """Add the gradients by what step k was shown to those by images and labels."""
        rows, table, op = self._step(k)
        self._take(rows, table, dx, key=op)
        self.logits.index_add_(0, rows, dy)

    def _step(self, k: int) -> tuple[Tensor, Tensor, str | None]:
        """Rows, table and operation of step k: the device is not asked for the operation."""
        rows = self._rows[k]
        return rows, self._u[k, : len(rows)], self._ops[k] if self._ops else None

    def _augmented(self, x: Tensor, u: Tensor, op: str | None) -> Tensor:
        return dsa(x, u, [op] if op else [], crop=self.crop)

    def _shown(self, rows: Tensor, u: Tensor, key: str | None = None) -> Tensor:
        return self._augmented(self.images[rows], u, key)

    def _taken(self, rows: Tensor, u: Tensor, dx: Tensor, key: str | None = None) -> None:
        leaf = self.images[rows].requires_grad_()
        with torch.enable_grad():
            (back,) = torch.autograd.grad(self._augmented(leaf, u, key), leaf, dx)
        self.pixels.index_add_(0, rows, back)
