"""Loaded data as Python, torch and a notebook expect a data set: index, slices, iteration, copies, workers."""

from __future__ import annotations

import copy
import math
import pickle
import typing
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, default_collate

import ddhub
from ddhub.artifact.folder import Artifact
from ddhub.data.labels import Teacher
from ddhub.errors import UsageError
from ddhub.hub import LoadedData, download
from ddhub.training.batches import DistilledData
from ddhub.training.items import Items

NAMES = ("cifar10-random-ipc1", "cifar10-infer-ipc10", "cifar10-edf-ipc1", "cifar10-idc-ipc1")


@pytest.fixture(scope="module", params=NAMES)
def data(request: pytest.FixtureRequest) -> DistilledData:
    return ddhub.load(request.param)


def test_items_are_normalised_images_and_class_numbers(data: DistilledData) -> None:
    artifact = Artifact.open(data.about.folder or "")
    count = len(data)
    image, target = data[0]
    assert image.shape == data.about.image_size and isinstance(target, int)
    assert len(data.targets) == count and data.classes == list(artifact.manifest.classes)
    stored = data.decoder.image_of(torch.arange(count))
    assert data.targets == artifact.image_labels()[stored].tolist()
    images = data.images
    assert images.shape == (count, *data.about.image_size)
    for row in (0, 1, count - 1):
        torch.testing.assert_close(data[row][0], data.normalize(images[row]))
        assert data[row][1] == data.targets[row] and torch.equal(data[row - count][0], data[row][0])


def test_slices_and_iteration_are_the_items_one_by_one(data: DistilledData) -> None:
    count = len(data)
    for part in (slice(0, 2), slice(-2, None), slice(None, None, -max(1, count // 3)), slice(5, 5), slice(0, 10**9, 7)):
        rows = range(count)[part]
        got = data[part]
        assert isinstance(got, list) and [x[1] for x in got] == [data.targets[row] for row in rows]
        assert all(torch.equal(x[0], data[row][0]) for x, row in list(zip(got, rows, strict=True))[:3])
    assert [target for _, target in data] == data.targets
    assert len(data.head()) == min(5, count) and data.head(2)[1][1] == data.targets[1]
    assert torch.equal(data[np.int64(1)][0], data[1][0])


def test_targets_of_the_labels_have_the_same_places(data: DistilledData) -> None:
    items = data.as_dataset()
    assert isinstance(items, Items) and torch.equal(items[-1][1], items[len(items) - 1][1])
    assert len(items[0:2]) == 2 and torch.equal(items[0:2][1][0], data[1][0])
    assert sum(1 for _ in items) == len(data)


@pytest.mark.parametrize("row", [None, "0", 1.5, (0, 1), slice("a", None), slice(None, None, 0), [0]])
def test_what_is_no_index_is_said_in_a_line(data: DistilledData, row: typing.Any) -> None:
    for items in (data, data.as_dataset()):
        with pytest.raises(UsageError, match="items have whole numbers"):
            items[row]
        for beyond in (len(data), -len(data) - 1, 10**30):
            with pytest.raises(IndexError, match=f"of {len(data)}"):
                items[beyond]


def test_data_without_classes_of_their_items_say_so() -> None:
    data = ddhub.load("cifar10-infer-ipc10")
    bare = DistilledData(data.decoder, data.labels, data.protocol, data.about)
    assert bare.as_dataset()[0][0].shape == (3, 32, 32)
    for ask in (lambda: bare.targets, lambda: bare[0], lambda: list(bare)):
        with pytest.raises(UsageError, match="was made without classes"):
            ask()


def test_other_labels_and_protocols_keep_the_classes() -> None:
    data = ddhub.load("cifar10-infer-ipc10")
    other = data.using(protocol=ddhub.protocol("idc"), labels=Teacher([torch.nn.Flatten()], 2.0))
    assert other.targets == data.targets and other.to("cpu").targets == data.targets


def test_more_images_than_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = ddhub.load("cifar10-random-ipc1")
    monkeypatch.setenv("DDHUB_MAX_BYTES", "1000")
    with pytest.raises(UsageError, match=r"has images of 122,880 bytes; take some"):
        _ = data.images


def test_repr_is_three_lines_and_a_notebook_shows_the_images(data: DistilledData, tmp_path: Path) -> None:
    lines = repr(data).splitlines()
    assert len(lines) == 3 and data.about.name in lines[0] and "10 classes of cifar10" in lines[0]
    assert data.protocol.name in lines[2] and f"{data.protocol.epochs:,} epochs" in lines[2]
    page = data._repr_html_()
    assert page.startswith("<pre>") and 'src="data:image/png;base64,iVBOR' in page
    moved = download(data.about.folder or "", tmp_path / data.about.name)
    kept = ddhub.load(moved)
    (moved / "preview.png").unlink()
    assert "img" not in kept._repr_html_() and "&#x27;" in kept._repr_html_()


def same(one: DistilledData, other: DistilledData) -> bool:
    return all(
        torch.equal(a, b)
        for x, y in zip(one.batches(3, epochs=1), other.batches(3, epochs=1), strict=True)
        for a, b in zip(x, y, strict=True)
    )


def test_copies_and_pickles_are_the_same_data(data: DistilledData) -> None:
    assert same(data, copy.deepcopy(data)) and same(data, copy.copy(data))
    again = pickle.loads(pickle.dumps(data))
    assert same(data, again) and again.targets == data.targets and repr(again) == repr(data)


def test_loaders_give_the_items_also_from_spawned_workers() -> None:
    data = ddhub.load("cifar10-random-ipc1")
    expected = default_collate(data[:10])
    for items, workers in ((data, 0), (data, 1), (data.as_dataset(), 1)):
        context = "spawn" if workers else None
        x, y = next(iter(DataLoader(items, 10, num_workers=workers, multiprocessing_context=context)))
        assert torch.equal(x, expected[0]) and torch.equal(y if y.ndim == 1 else y.argmax(1), expected[1])


def test_type_hints_of_public_functions_resolve() -> None:
    import inspect

    known = [getattr(ddhub, name) for name in {*ddhub.__all__, *ddhub._HOME} - {"__version__"}] + [LoadedData]
    methods = [f for kind in known if inspect.isclass(kind) for _, f in inspect.getmembers(kind, inspect.isfunction)]
    for function in (*known, *methods):
        module = inspect.getmodule(function)
        if module is not None and module.__name__.startswith("ddhub"):
            typing.get_type_hints(function)


def test_batches_refuse_what_are_no_numbers() -> None:
    data = ddhub.load("cifar10-random-ipc1")
    wrong = [("seed", None), ("seed", "0"), ("seed", -1), ("seed", 1.5), ("start", None), ("rank", "0"), ("world", 0)]
    wrong += [("epochs", 0), ("epochs", "1"), ("batch_size", 0), ("batch_size", math.inf)]
    for name, value in wrong:
        with pytest.raises(UsageError) as caught:
            next(data.batches(**{name: value}))  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
    assert torch.equal(next(data.batches(np.int64(2)))[0], next(data.batches(2))[0])  # type: ignore[arg-type]
