"""Nets and test data that do not fit each other, arrays and torch data sets as test data, and torch's defaults."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

import ddhub
from ddhub import models
from ddhub.errors import UsageError
from ddhub.sources.source import open_source

ROOT = Path(__file__).parents[2]
PLAN = ddhub.protocol("infer-static", epochs=1)
STUDENT: dict[str, Any] = {"protocol": PLAN, "test": "cifar10-mini", "progress": False, "device": "cpu"}


def net(outputs: int = 10, channels: int = 3, side: int = 32) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * side * side, outputs))


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        return self.net(x), None


class Batchless(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(10, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight @ x.mean((0, 2, 3))


WRONG = {
    "five outputs": (
        net(5),
        r"gives float32 \[\d+, 5\], and the data need \[\d+, 10\] from images float32 \[\d+, 3, 32",
    ),
    "a hundred outputs": (net(100), r"gives float32 \[\d+, 100\], and the data need \[\d+, 10\]"),
    "one channel": (
        nn.Sequential(nn.Conv2d(1, 10, 32), nn.Flatten()),
        "does not take the images .* weights are float32",
    ),
    "other images": (net(side=28), "does not take the images"),
    "half precision": (net().half(), "does not take the images .* weights are float16"),
    "double precision": (net().double(), "does not take the images .* weights are float64"),
    "maps": (nn.Conv2d(3, 10, 3), r"gives float32 \[\d+, 10, 30, 30\]"),
    "a tuple": (Pair(), "gives a tuple"),
    "no batch": (Batchless(), r"gives float32 \[10\]"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_net_that_does_not_fit_says_what_it_gives_and_what_the_data_need(name: str) -> None:
    student, message = WRONG[name]
    for ask in (
        lambda: ddhub.train("cifar10-random-ipc1", student, **STUDENT),
        lambda: ddhub.evaluate(student, "cifar10-mini", device="cpu"),
    ):
        with pytest.raises(UsageError, match=message) as caught:
            ask()
        assert "\n" not in str(caught.value) and type(student).__name__ in str(caught.value)


@pytest.mark.parametrize(
    ("student", "message"),
    [
        (None, "model is of type NoneType; give a net"),
        (nn.Linear, "model is of type type"),
        (3, "model is of type int"),
        (nn.Flatten(), "model is 'Flatten'; it must be a net with weights"),
        ("convnet33", "unknown model 'convnet33'; did you mean 'convnet3'"),
    ],
)
def test_what_is_no_student(student: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ddhub.train("cifar10-random-ipc1", student, **STUDENT)


def test_outputs_of_other_classes_are_not_scored(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for k in range(3):
            folder = tmp_path / "pets" / split / f"class{k}"
            folder.mkdir(parents=True)
            from PIL import Image

            Image.new("RGB", (32, 32), (k * 90, 0, 0)).save(folder / "0.png")
    with pytest.raises(UsageError, match=r"gives float32 \[3, 10\], and the data need \[3, 3\]"):
        ddhub.evaluate(net(10), f"folder:{tmp_path}/pets")
    with pytest.raises(UsageError, match=r"gives float32 \[500, 3\], and the data need \[500, 10\]"):
        ddhub.evaluate(net(3), "cifar10-mini")


class Whole(Dataset[Any]):
    """A data set of one's own, as torchvision's are: images with a transform, and classes."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        return self.images[row], int(self.labels[row])


def test_arrays_and_torch_data_sets_score_as_the_source_does() -> None:
    test = open_source("cifar10-mini", "test")
    torch.manual_seed(0)
    student = models.build("convnet3-w8", classes=10)
    expected = ddhub.evaluate(student, "cifar10-mini")
    mean, std = (torch.tensor(x).view(-1, 1, 1) for x in (test.mean, test.std))
    floats = (test.images / 255 - mean) / std
    scale = {"mean": test.mean, "std": np.array(test.std)}
    assert ddhub.evaluate(student, test) == expected
    for images, labels in ((test.images, test.labels), (test.images.numpy(), test.labels.tolist())):
        assert ddhub.evaluate(student, (images, labels), **scale) == expected  # type: ignore[arg-type]
    assert ddhub.evaluate(student, (floats, test.labels)) == expected
    assert ddhub.evaluate(student, TensorDataset(floats, test.labels)) == expected
    assert ddhub.evaluate(student, Whole(floats, test.labels)) == expected
    assert ddhub.evaluate(student, Whole(test.images, test.labels), **scale) == expected  # type: ignore[arg-type]


IMAGES, LABELS = torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.arange(4)


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (None, "test is of type NoneType; give the name"),
        (IMAGES, "test is of type Tensor; give the name of a data set"),
        (IMAGES.numpy(), "test is of type ndarray"),
        (3, "test is of type int"),
        ((IMAGES, LABELS), "bytes need mean= and std="),
        ((IMAGES.float(), LABELS.float()), r"are float32 \[4, 3, 32, 32\] and float32 \[4\]; they must be"),
        ((IMAGES.float(), LABELS[:3]), "they must be"),
        ((IMAGES[0].float(), LABELS), "they must be"),
        ((IMAGES.float(), -1 - LABELS), "below 0"),
        ((IMAGES.float(), 7 + LABELS), "gives 10 numbers an image, and the test images have a class 10"),
        ((IMAGES.int(), LABELS), r"test images are int32"),
        (("a", "b"), "are no arrays"),
        ((None, LABELS), "are no arrays"),
        ((IMAGES[:0].float(), LABELS[:0]), "they must be"),
        (TensorDataset(IMAGES.float()), "its items are no pairs"),
        (TensorDataset(IMAGES[:0].float(), LABELS[:0]), "there are no test images"),
        ("cifar11", "unknown data set 'cifar11'; did you mean 'cifar1"),
    ],
)
def test_test_data_that_are_none(test: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        ddhub.evaluate(net(), test)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("mean", "std"), [(3, 4), ("abc", "abc"), ((0.5,) * 4, (0.5,) * 4), ((0.5, None, 1), (1, 1, 1))]
)
def test_scales_that_are_none(mean: Any, std: Any) -> None:
    with pytest.raises(UsageError, match="for each channel|channels, and mean"):
        ddhub.evaluate(net(), (IMAGES, LABELS), mean=mean, std=std)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"data": None}, "data are of type NoneType; give what ddhub.load returns, or a name"),
        ({"data": IMAGES}, "data are of type Tensor"),
        ({"data": "cifar10-randm-ipc1"}, "did you mean 'cifar10-random-ipc1'"),
        ({"test": (IMAGES, LABELS)}, r"data set \(tensor.* is no name"),
        ({"protocol": "infer-statik"}, "did you mean 'infer-static'"),
        ({"protocol": 3}, "protocol is 3; it must be a Protocol"),
        ({"seed": None}, "seed is None"),
        ({"protocol": {}}, "protocol is {}; it must be a Protocol"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"device": "gpu"}, "device 'gpu' cannot be used"),
        ({"precision": 16}, "precision is 16"),
    ],
)
def test_words_of_train_that_cannot_be(words: dict[str, Any], message: str) -> None:
    given = {"data": "cifar10-random-ipc1", "model": net(), **STUDENT, **words}
    with pytest.raises(UsageError, match=message) as caught:
        ddhub.train(**given)
    assert "\n" not in str(caught.value)


def test_names_are_loaded() -> None:
    _, result = ddhub.train("cifar10-random-ipc1", "convnet3-w8", **{**STUDENT, "protocol": "idc"} | {"protocol": PLAN})
    data = ddhub.load("cifar10-random-ipc1")
    assert ddhub.train(data, "convnet3-w8", **STUDENT)[1].accuracy == result.accuracy


def test_a_net_is_scored_in_eval_mode_and_left_as_it_was() -> None:
    own = nn.Sequential(nn.Dropout(0.9), net(), nn.BatchNorm1d(10).eval())
    scores = {ddhub.evaluate(own, "cifar10-mini") for _ in range(3)}
    assert len(scores) == 1 and [layer.training for layer in own] == [True, True, False]


def test_a_compiled_net_trains_and_scores() -> None:
    torch.manual_seed(0)
    plain = net()
    compiled = torch.compile(net(), backend="eager")
    compiled.load_state_dict({f"_orig_mod.{key}": value for key, value in plain.state_dict().items()})
    results = [ddhub.train("cifar10-random-ipc1", student, **STUDENT)[1] for student in (plain, compiled)]
    assert results[0].accuracy == results[1].accuracy == ddhub.evaluate(compiled, "cifar10-mini")
    assert results[1].model == "OptimizedModule"


DEFAULTS = """
import sys, tempfile
from pathlib import Path
import torch
import ddhub
from ddhub.cli.app import cli
from ddhub import models
torch.set_num_threads(1)
if sys.argv[1] == "meta":
    torch.set_default_device("meta")
if sys.argv[1] == "float64":
    torch.set_default_dtype(torch.float64)
plan = ddhub.protocol("infer-static", epochs=1)
where = Path(tempfile.mkdtemp())
for name in ("cifar10-random-ipc1", "cifar10-infer-ipc10", "cifar10-edf-ipc1", "cifar10-idc-ipc1"):
    data = ddhub.load(name)
    x, y = next(data.batches(0))
    loss = data.loss(torch.zeros(len(x), 10, device="cpu"), y)
    print(name, float(x.double().sum()), float(loss), len(data[:3]), data.targets[:3], data.images.shape)
    data.export("npz", where / f"{name}.npz")
net, result = ddhub.train(data, "convnet3-w4", protocol=plan, test="cifar10-mini", progress=False)
print(result.accuracy, ddhub.evaluate(net, "cifar10-mini"))
for words in (["preview", name, "--to", str(where / "a.png"), "--decoded"], ["verify", name],
              ["export", name, str(where / "pt"), "--to", "pt"]):
    cli.main(words, standalone_mode=False)
"""


def test_torchs_default_device_and_dtype_change_nothing(tmp_path: Path) -> None:
    """What is computed with a default device that holds no data is what is computed without."""
    said = {}
    for default in ("none", "meta", "float64"):
        done = subprocess.run([sys.executable, "-c", DEFAULTS, default], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, (default, done.stderr[-2000:])
        said[default] = re.sub(r"/\S+", "", done.stdout)
    assert said["none"] == said["meta"]
    assert said["float64"].count("\n") == said["none"].count("\n")
