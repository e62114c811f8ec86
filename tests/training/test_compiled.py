"""Compiled nets: the same students up to rounding, only where it pays, and none where torch cannot."""

import logging
from dataclasses import replace

import pytest
import torch

import ddhub
from ddhub import models
from ddhub.training import compiled as place
from ddhub.training.compiled import compiled
from ddhub.training.devices import computing

CPU = torch.device("cpu")


def student(precision: str) -> torch.nn.Module:
    """ConvNet-3 of width 4 after two epochs of 10 images in batches of 4: the last batch of an epoch has two."""
    data = ddhub.load("cifar10-random-ipc1")
    protocol = replace(data.protocol, epochs=2, batch_size=4)
    return ddhub.train(data, "convnet3-w4", protocol=protocol, test="cifar10-mini", precision=precision)[0]


def test_a_compiled_students_weights_are_the_eager_ones_up_to_rounding(monkeypatch, caplog):
    monkeypatch.setattr(place, "_PAYS", 0)
    caplog.set_level(logging.INFO)
    eager = student("exact")
    assert "compiled" not in caplog.text
    fast = student("fp32")
    assert "steps are compiled" in caplog.text
    assert fast.state_dict().keys() == eager.state_dict().keys()
    for name, value in eager.state_dict().items():
        torch.testing.assert_close(fast.state_dict()[name], value, rtol=2e-3, atol=2e-5)


def test_short_runs_and_nets_without_pooling_of_maps_stay_as_they_are():
    x = torch.zeros(4, 3, 32, 32)
    for name, images in (("convnet3", 20_000), ("convnet3-w32", 90_000), ("resnet18-w16", 10**9)):
        net = models.build(name, classes=10)
        assert compiled(net, x, images) is net, name
    net = models.build("convnet3", classes=10)
    assert compiled(net.double(), x.double(), 10**9) is net


def test_counting_changes_no_statistics_and_leaves_the_net_in_training():
    net = models.build("convnet3-bn-w4", classes=10).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert place._written(net, torch.rand(4, 3, 32, 32)) == 4 * (32**2 + 16**2 + 8**2)
    assert net.training and all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_where_torch_cannot_compile_the_net_is_used_as_it_is(monkeypatch, caplog):
    def broken(*_, **__):
        raise RuntimeError("no C++ compiler\nand more")

    monkeypatch.setattr(place, "_PAYS", 0)
    monkeypatch.setattr(torch, "compile", broken)
    place._hindrance.cache_clear()
    caplog.set_level(logging.INFO)
    net = models.build("convnet3-w4", classes=10)
    try:
        assert compiled(net, torch.zeros(4, 3, 32, 32), 1) is net
    finally:
        place._hindrance.cache_clear()
    assert "steps are not compiled (no C++ compiler)" in caplog.text


def test_many_kinds_of_nets_in_a_process_are_all_compiled(monkeypatch):
    """By itself torch stops after eight, so that a student would depend on those that were trained before it."""
    compile_, graphs = torch.compile, []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(place, "_PAYS", 0)
    monkeypatch.setattr(torch, "compile", lambda net, **words: compile_(net, backend=backend, **words))
    with computing(CPU, "fp32"):
        for width in range(1, 12):
            net, before = models.build(f"convnet3-w{width}", classes=10), len(graphs)
            x = torch.zeros(2, 3, 32, 32)
            compiled(net, x, 1)(x)
            assert len(graphs) > before, width


@pytest.mark.parametrize("precision", ["bf16", "exact"])
def test_other_precisions_are_never_compiled(monkeypatch, precision):
    monkeypatch.setattr(place, "_PAYS", 0)
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("compiled"))
    student(precision)
