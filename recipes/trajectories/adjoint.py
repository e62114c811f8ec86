"""Trajectory matching in constant memory: the exact gradients of an unrolled training run, by its adjoint.

    theta_0 = start       theta_(k+1) = theta_k - eta · g_k,  g_k = dl(x_k, y_k; theta_k)/dtheta_k        k = 0..N-1
    l                     cross-entropy of the logits with softmax(y_k), the mean over the batch
    L                     Σ_S (theta_N - target)² / Σ_S (start - target)², S the parameters that `cpd` keeps

MTT (Cazenavette et al., 2022, arXiv 2203.11932), DATM (Guo et al., 2024, arXiv 2310.05773) and EDF (Wang et al., 2025,
arXiv 2410.17193) differentiate L through the graph of all N steps. Here theta_0..theta_(N-1) are kept, and no graph.
With adjoint_N = dL/dtheta_N, and for k = N-1..0 the scalar r_k = <g_k, adjoint_(k+1)>, the adjoint held constant,

    dL/dx_k = -eta · dr_k/dx_k       dL/dy_k = -eta · dr_k/dy_k       dL/deta = -Σ_k r_k
    adjoint_k = adjoint_(k+1) - eta · dr_k/dtheta_k

which is the chain rule, exact; what TESLA (Cui et al., 2023, arXiv 2211.10586) leaves out of it is not left out. Ways:

    reverse     g_k is computed with its graph, times the adjoint, and differentiated again
    forward     r_k is how fast l rises along the adjoint: computed beside l, and differentiated once
    unroll      the graphs of all steps are kept from the way there, as the papers' codes do

A step forth, and one back, are captured steps (`ddhub.training.capture`): `Moves` keeps the recordings for many runs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ddhub.errors import UsageError, unknown
from ddhub.training.capture import Captured
from recipes.trajectories.flat import Flat
from recipes.trajectories.tangent import along

WAYS = ("unroll", "reverse", "forward")

Shown = Callable[[int], tuple[Tensor, Tensor]]
Give = Callable[[int, Tensor, Tensor], None]
Derivatives = tuple[Tensor, Tensor, Tensor, Tensor]  # r_k, and its derivatives by theta, x and y
Pull = Callable[[Flat, Tensor, Tensor, Tensor, Tensor], Derivatives]


class Matched(NamedTuple):
    """The loss [] and its derivative by the step size []; they may be no numbers."""

    loss: Tensor
    eta: Tensor


class Moves:
    """The steps of a net, forth and back in either way, as captured steps.

    Args:
        flat: the net.
        device: where it computes.
        active: false records nothing.
    """

    def __init__(self, flat: Flat, device: torch.device, *, active: bool = True) -> None:
        self.forth = Captured(partial(_forth, flat), device, "a student's step", active=active)
        self.reverse, self.forward = (
            Captured(partial(_back, flat, pull), device, "a student's step back", active=active)
            for pull in (_reverse, _forward)
        )


def cpd(student: Tensor, target: Tensor, start: Tensor, drop: float) -> Tensor:
    """The matching loss without common patterns, Σ_S (student - target)² / Σ_S (start - target)²: a scalar.

    EDF's common pattern dropout: S are all parameters but the floor(drop · P) of least (student - target)², counted
    one by one over the whole net; of equal ones the first are dropped. S itself is not differentiated. Without a drop
    it is the loss of MTT and DATM.

    Args:
        student, target, start: parameters [P].
        drop: share of them that is dropped, in [0, 1).

    Raises:
        UsageError: another share.
    """
    if not 0 <= drop < 1:
        raise UsageError(f"drop is {drop:g}; it must be in [0, 1), as a share of 1 leaves no parameter to match")
    gap, path = (student - target).square(), (start - target).square()
    count = int(drop * len(student))
    if count:
        kept = gap.detach().argsort(stable=True)[count:]
        gap, path = gap[kept], path[kept]
    return gap.sum() / path.sum()


def match(
    flat: Flat,
    start: Tensor,
    target: Tensor,
    eta: Tensor,
    shown: Shown,
    steps: int,
    give: Give,
    *,
    drop: float = 0.0,
    way: str = "",
    segment: int = 1,
    moves: Moves | None = None,
) -> Matched:
    """L after N steps from `start`, and its gradients by what was shown; nothing in it waits for the device.

    Args:
        flat: the net.
        start, target: an expert's parameters [P], and those some epochs later.
        eta: step size [].
        shown: of step k the images [B, C, H, W], normalised and augmented, and the logits of their labels [B, K]. It is
            asked twice for a step whose graph is not kept, and must answer the same; where graphs are kept, answers
            must last until the end.
        steps: N.
        give: takes k, dL/dx_k and dL/dy_k, once a step, the last step first.
        drop: share of the parameters that `cpd` leaves out.
        way: unroll, reverse or forward; empty is forward, the faster one.
        segment: s > 1 keeps the graphs of the last s steps, which are then not computed a second time.
        moves: the net's steps, kept for many calls; of this one alone if not given.

    Raises:
        UsageError: an unknown way, no step, no segment, or a share that `cpd` does not take.
    """
    if way and way not in WAYS:
        raise unknown("way", way, WAYS)
    if steps < 1 or segment < 1:
        raise UsageError(f"{steps} steps in segments of {segment}; both must be 1 or more")
    alone = 0 if way == "unroll" else steps if segment == 1 else max(0, steps - segment)
    moves = moves or Moves(flat, start.device)
    back = moves.reverse if way == "reverse" else moves.forward

    eta, theta = eta.detach(), start.detach()
    thetas = theta.new_empty(alone, len(theta))  # one block, as vectors among the maps would tear the heap apart
    for k in range(alone):
        thetas[k] = theta
        theta = moves.forth(theta, eta, *shown(k))

    leaves = [_leaf(theta), _leaf(eta)]
    with torch.enable_grad():
        end, rate = leaves
        for k in range(alone, steps):  # those whose graphs are kept, if any
            leaves += map(_leaf, shown(k))
            end = end - rate * _gradient(flat, end, *leaves[-2:], graph=True)
        loss = cpd(end, target, start, drop)
    adjoint, by_eta, *others = torch.autograd.grad(loss, leaves, materialize_grads=True)
    for k in reversed(range(alone, steps)):
        by_y, by_x = others.pop(), others.pop()
        give(k, by_x, by_y)

    for k in reversed(range(alone)):
        adjoint, by_eta, by_x, by_y = back(thetas[k], eta, *shown(k), adjoint, by_eta)
        give(k, by_x, by_y)
    return Matched(loss.detach(), by_eta)


def soft_cross_entropy(flat: Flat, theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """l: of the net's logits for images x [B, C, H, W] with softmax(y), y [B, K]; the mean over the batch."""
    return -(y.softmax(1) * flat(theta, x).log_softmax(1)).sum(1).mean()


def _leaf(value: Tensor) -> Tensor:
    return value.detach().requires_grad_()


def _gradient(flat: Flat, theta: Tensor, x: Tensor, y: Tensor, *, graph: bool = False) -> Tensor:
    """g [P] at theta, which requires a gradient."""
    with torch.enable_grad():
        return torch.autograd.grad(soft_cross_entropy(flat, theta, x, y), theta, create_graph=graph)[0]


def _forth(flat: Flat, theta: Tensor, eta: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """theta_(k+1)."""
    return theta - eta * _gradient(flat, _leaf(theta), x, y)


def _back(
    flat: Flat, pull: Pull, theta: Tensor, eta: Tensor, x: Tensor, y: Tensor, adjoint: Tensor, by_eta: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """adjoint_k, what dL/deta is without the steps before, dL/dx_k and dL/dy_k."""
    rise, by_theta, by_x, by_y = pull(flat, theta, x, y, adjoint)
    return adjoint - eta * by_theta, by_eta - rise, -eta * by_x, -eta * by_y


def _reverse(flat: Flat, theta: Tensor, x: Tensor, y: Tensor, adjoint: Tensor) -> Derivatives:
    leaves = _leaf(theta), _leaf(x), _leaf(y)
    gradient = _gradient(flat, *leaves, graph=True)
    by_theta, by_x, by_y = torch.autograd.grad(gradient, leaves, adjoint)
    return gradient.detach() @ adjoint, by_theta, by_x, by_y


def _forward(flat: Flat, theta: Tensor, x: Tensor, y: Tensor, adjoint: Tensor) -> Derivatives:
    leaves = _leaf(theta), _leaf(x), _leaf(y)
    with torch.enable_grad():
        rise = along(flat, leaves[0], adjoint, *leaves[1:])
    by_theta, by_x, by_y = torch.autograd.grad(rise, leaves)
    return rise.detach(), by_theta, by_x, by_y
