"""What trajectories cost: the stages of a plan, by the counts of the net (`recipes.run.operations`)."""

from __future__ import annotations

from recipes.run.plan import Net, Step
from recipes.trajectories.experts import Experts

# Kernels of a student's step with its way back, by those of forward and backward: counted are 445 of convnet3.
_ADJOINT = 14
_TOGETHER = 4  # experts side by side on a GPU, which share their kernels


def experts_step(net: Net, rule: Experts, items: int) -> Step:
    """The training of the experts on so many images; GSAM differentiates every batch twice."""
    passes = 2 if rule.optimizer == "gsam" else 1
    turns = -(-rule.count // (rule.together or _TOGETHER)) * rule.epochs * -(-items // rule.batch)
    return net.step("experts", passes * rule.count * rule.epochs * items, turns * passes * net.cost.step)


def match_step(net: Net, stage: str, iterations: int, steps: int, batch: int, shown: int) -> Step:
    """Outer iterations of so many steps of the student, and of `shown` image passes beside them, for maps.

    A step and its way back take twelve forward passes, which are four forward and backward ones.
    """
    return net.step(stage, iterations * (4 * steps * batch + shown), iterations * steps * _ADJOINT * net.cost.both)
