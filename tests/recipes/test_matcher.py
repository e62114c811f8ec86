"""Outer iterations in one place: captured steps give what eager ones give, in chunks or not."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from repeated import Repeated
from test_matching import HOW, real, start
from test_udd import CPU, TINY, advanced
from torch import Tensor

from ddhub import models
from ddhub.errors import TrainingError
from ddhub.training.devices import computing
from recipes import udd
from recipes.gradients import contrast
from recipes.gradients.contrast import Contrasting
from recipes.gradients.outer import Matcher
from recipes.run.draws import generator

# In every outer iteration regions are new, and the gradients of both losses are computed one by one twice.
UDD = replace(TINY, n_outer=5, inner=3, refresh_every=1, lr=20.0, together=2, n_data=70)
CASES = {
    "idc": replace(UDD, regions=0, contrast="none"),
    "idc-i": replace(UDD, regions=0, contrast="none", factor=1, distance="l1"),
    "udd": UDD,
    "udd, a part of the bank": replace(UDD, contrast="dot", bank_every=2, bank_size=5, batch_syn=7, n_data=0),
}
CONTRAST = Contrasting(kind="cosine", weight="balanced", tau=0.1, rho=0.1, every=2, most=4)


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", CASES)
def test_a_recorded_run_is_the_eager_one(name: str, repeated: list[Repeated], monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = CASES[name]
    monkeypatch.setattr(contrast, "_PERIOD", 2)
    eager = advanced(cfg)  # outside of `computing` nothing is recorded
    assert not repeated
    with computing(CPU, "fp32"):
        found = advanced(cfg)
    assert equal(found, eager)
    calls = sorted(one.calls for one in repeated)
    taken = cfg.n_outer * cfg.inner
    if cfg.contrast == "none":
        assert calls == [taken - 3, 2 * taken - 3]  # matches, and two batches of the net after each
    else:
        apart = 2 * cfg.n_outer  # of inner iterations 0 and 2
        train = [2 * taken - 3] if cfg.n_data else []
        banks = cfg.n_outer * -(-cfg.inner // cfg.bank_every)
        assert calls == sorted([apart - 3, taken - apart - 3, banks - 3, *train])
    monkeypatch.setattr(udd, "_CHUNKS", 2)
    with computing(CPU, "fp32"):
        assert equal(advanced(cfg), eager)  # three outer iterations a stage, not one


def matcher(inner: int = 4) -> tuple[Matcher, Tensor]:
    """A started one, and the corners of its formations."""
    images, velocity, corners = start()
    made = Matcher(images, 4, real(), replace(HOW, inner=inner), CONTRAST)
    made.start(images, velocity, torch.zeros(2))
    return made, corners


def places(made: Matcher) -> list[int]:
    """The addresses of all that captured steps read and write."""
    beside, optimizer = made.contrast, made.optimizer
    assert beside is not None and len(optimizer.state) == len(list(made.net.parameters()))
    moments = [state["momentum_buffer"] for state in optimizer.state.values()]
    bank = [beside.norms, beside.mean, beside.features, beside.inside]
    tensors = [made.images, made.velocity, made.norms, made.loss, *made.net.parameters(), *moments, *bank]
    return [tensor.data_ptr() for tensor in tensors]


def test_what_captured_steps_change_stays_where_it_is() -> None:
    made, corners = matcher()
    made.iterate(0, corners)
    before = places(made)
    state = made.state()
    made.iterate(1, corners)
    once = made.state()
    made.start(**state)
    made.iterate(1, corners.clone())
    assert places(made) == before and equal(made.state(), once)


def test_the_net_of_an_outer_iteration_is_a_new_one_of_its_own_seed() -> None:
    made, corners = matcher()
    made.iterate(0, corners)
    made._renew(1)
    torch.manual_seed(generator(HOW.seed, "net", 1).initial_seed())
    fresh = models.build(HOW.net, classes=3, size=8).double()
    assert all(torch.equal(x, y) for x, y in zip(made.net.parameters(), fresh.parameters(), strict=True))
    assert not list(made.net.buffers())
    assert all(not bool(state["momentum_buffer"].any()) for state in made.optimizer.state.values())


def test_losses_are_read_after_ten_outer_iterations_and_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    wanted: list[str] = []
    for reads in (1, 10):
        made, corners = matcher(inner=1)
        made.reads, logged = reads, []
        caplog.clear()
        with caplog.at_level(logging.INFO):
            for number in range(12):
                made.iterate(number, corners)
                logged.append(len(caplog.messages))
            made.state()
        assert logged == [(number + 1) // reads * reads for number in range(12)]
        wanted = wanted or list(caplog.messages)
        assert caplog.messages == wanted
    assert len(wanted) == 12 and wanted[3].startswith("outer iteration 3: matching loss ") and ", lambda " in wanted[3]


def test_the_first_outer_iteration_after_which_an_image_is_not_a_number_is_said() -> None:
    made, corners = matcher()
    made.reads = 10
    for number in range(5):
        if number == 2:
            made.images[1, 0, 0, 3, 3] = torch.nan
        made.iterate(number, corners)
    with pytest.raises(TrainingError, match="an image is not a number after outer iteration 2; lower --lr"):
        made.report()
