"""States of a student: those of another run and damaged ones are not used."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_training import TINY, weights

from ddhub.errors import DDHubError
from ddhub.sources.source import open_source
from ddhub.training import loop
from ddhub.training.batches import DistilledData
from recipes.run.teachers import real_data


@pytest.fixture(scope="module")
def data() -> DistilledData:
    source = open_source("cifar10-mini")
    return real_data(replace(source, images=source.images[:40], labels=source.labels[:40]), TINY)


@pytest.fixture
def state(data: DistilledData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That of a run which ended after its second epoch."""
    save = loop._save

    def stop(path: Path, state: dict[str, object]) -> None:
        save(path, state)
        if state["epochs"] == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "SAVE", 0)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "_save", stop)
        loop.fit(data, "convnet3-bn-w8", 3, "fp32", tmp_path / "state", progress=False)
    return tmp_path / "state"


OTHERS = {
    "model": ("convnet3-bn-w4", 3, "fp32", {}),
    "seed": ("convnet3-bn-w8", 4, "fp32", {}),
    "precision": ("convnet3-bn-w8", 3, "exact", {}),
    "protocol": ("convnet3-bn-w8", 3, "fp32", {"lr": 0.01}),
    "a protocol of fewer epochs": ("convnet3-bn-w8", 3, "fp32", {"epochs": 1}),
    "an optimizer": ("convnet3-bn-w8", 3, "fp32", {"optimizer": "sgd"}),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_state_of_another_run_is_not_used(
    kind: str, data: DistilledData, state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, seed, precision, changes = OTHERS[kind]
    mine = data.using(protocol=replace(TINY, **changes))  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING):
        net, _, _ = loop.fit(mine, model, seed, precision, state, progress=False)
    assert caplog.messages == [f"{state} is not used (it is of another run); training begins anew"]
    anew, _, _ = loop.fit(mine, model, seed, precision, progress=False)
    assert all(torch.equal(x, y) for x, y in zip(weights(net), weights(anew), strict=True))


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "list", "older"])
def test_a_damaged_state_is_not_used(
    damage: str, data: DistilledData, state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = {"empty": b"", "cut": state.read_bytes()[:5000], "text": b"not a state\n" * 99}.get(damage)
    if content is not None:
        state.write_bytes(content)
    elif damage == "list":
        torch.save([1, 2], state)
    else:
        torch.save({key: x for key, x in torch.load(state).items() if key != "run"}, state)
    with caplog.at_level(logging.WARNING):
        loop.fit(data, "convnet3-bn-w8", 3, "fp32", state, progress=False)
    (line,) = caplog.messages
    assert re.fullmatch(r".*state is not used \(it cannot be read: .+\); training begins anew", line)


def test_a_state_that_cannot_be_written_ends_training_in_one_line(data: DistilledData, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DDHubError, match=r"file/state: cannot be written \(.+\); free space or check its rights$"):
        loop.fit(data, "convnet3-bn-w8", 3, "fp32", tmp_path / "file" / "state", progress=False)
