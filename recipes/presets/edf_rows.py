"""Published settings of EDF and DATM, row by row, as fields of `recipes.edf.Config`.

EDF publishes settings for ten-class subsets of ImageNet, and for CIFAR and Tiny-ImageNet four that are complete: the
others name no drop fraction or are left from other projects. There EDF is DATM's row with a drop fraction, DAE, and
room for the loss that CPD raises. Files that are copies of another one (ImageFruit at 1 and 10 images a class) take
the window, the drop fraction and the refresh of the other subsets.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Fields = dict[str, Any]

# subset, ipc | N B | lr_img lr_y | threshold | T⁻ = 0, T₀ T⁺ E | α | K | β
_SUBSETS = """
    imagenette   1   40 1000  10000 2  1.5   5 10 1000  0     50  1
    imagenette   10  40 200   1000  2  1.5  10 20 1000  0.25  100 1
    imagenette   50  80 128   1000  5  1.5  20 40 2000  0.375 200 1
    imagewoof    1   40 1000  10000 3  2     5 10 1000  0     50  1
    imagewoof    10  40 250   1000  3  2    10 20 1000  0.25  100 2
    imagewoof    50  40 250   100   5  1.5  20 40 2000  0.375 200 2
    imagemeow    1   40 1000  10000 3  2     5 10 1000  0     50  1
    imagemeow    10  40 250   1000  2  2    10 20 1000  0.25  100 1
    imagemeow    50  80 128   100   5  1.1  20 40 2000  0.375 100 1
    imageyellow  1   40 1000  10000 3  1.5   5 10 1000  0     50  1
    imageyellow  10  40 250   1000  3  2    10 20 1000  0.25  100 1
    imageyellow  50  40 200   100   5  1.5  20 40 1000  0.375 200 1
    imagefruit   1   40 1000  10000 5  1.1   5 10 1000  0     50  1
    imagefruit   10  40 200   1000  5  1.1  10 20 1000  0.25  100 1
    imagefruit   50  80 128   100   5  1.1  20 40 1000  0.375 100 1
    imagesquawk  1   40 1000  10000 3  1.5   5 10 1000  0     50  1
    imagesquawk  10  40 250   1000  3  2    10 20 1000  0.25  100 1
    imagesquawk  50  80 128   100   5  1.1  20 40 1000  0.5   100 1
    birds-easy   1   40 1000  10000 2  1.7   5 10 1000  0     50  1
    birds-easy   10  40 200   1000  3  2    10 20 1000  0.25  100 1
    birds-easy   50  40 200   100   5  1    20 40 1000  0.375 100 1
    birds-hard   1   40 1000  10000 2  1.5   5 10 1000  0     50  1
    birds-hard   10  40 200   1000  3  2    10 20 1000  0.25  100 1
    birds-hard   50  40 200   100   5  1    20 40 2000  0.25  100 1
    dogs-easy    1   40 1000  10000 2  2     5 10 1000  0     50  1
    dogs-easy    10  40 250   1000  5  2    10 20 1000  0.25  100 1
    dogs-easy    50  40 200   100   5  1    20 40 2000  0.375 100 1
    dogs-hard    1   40 1000  10000 2  2.5   5 10 1000  0     50  1
    dogs-hard    10  40 200   1000  2  2    10 20 1000  0.25  100 1
    dogs-hard    50  40 200   100   5  1    20 40 2000  0.375 100 1
    cars-easy    1   40 1000  10000 3  2     5 10 1000  0     50  1
    cars-easy    10  40 200   1000  3  2    10 20 1000  0.25  100 1
    cars-easy    50  40 200   100   5  1    20 40 2000  0.375 100 1
    cars-hard    1   40 1000  10000 3  2     5 10 1000  0     50  1
    cars-hard    10  40 200   1000  3  2    10 20 1000  0.25  100 1
    cars-hard    50  40 200   100   5  1.5  20 40 2000  0.375 100 1
"""
_EXCEPTIONS: dict[tuple[str, int], Fields] = {
    ("imagewoof", 10): {"lr_lr": 1e-6},
    ("imagesquawk", 50): {"lr_teacher": 0.005},
}
# data set, ipc | N B | lr_img lr_y lr_lr | threshold | T⁻ T₀ T⁺ E, where E = 0 is no sequential window | M
_DATM = """
    cifar10        1     80 10    100   5  1e-7  1.1   0  4  4 0     2
    cifar10        10    80 100   100   2  1e-5  1     0 10 20 1000  2
    cifar10        50    80 500   1000  2  1e-5  1     0 20 40 2000  2
    cifar10        500   40 1000  50    10 1e-5  1    40 60 60 0     2
    cifar10        1000  100 1000 50    10 1e-5  1    40 60 60 0     2
    cifar100       1     40 1000  1000  10 1e-5  1     0 10 20 1000  3
    cifar100       10    80 1000  1000  10 1e-5  1     0 30 50 2000  2
    cifar100       50    80 1000  1000  10 1e-5  1    20 70 70 0     2
    cifar100       100   80 1000  50    10 1e-5  1    30 70 70 0     2
    tiny-imagenet  1     40 1000  10000 10 1e-4  1     0 15 20 2000  2
    tiny-imagenet  10    40 500   100   10 1e-4  1    10 50 50 0     2
    tiny-imagenet  50    20 1000  100   10 1e-4  1    40 70 70 0     2
"""
_EDF = """
    cifar10        1000  80 1000  100   10 1e-5  1.5  40 60 60 0     2
    tiny-imagenet  10    60 250   100   10 1e-4  1.1  10 50 50 0     2
    tiny-imagenet  50    80 250   100   10 1e-4  1.1  40 70 70 0     2
    tiny-imagenet  100   40 600   1000  10 1e-4  1.1  30 80 80 0     2
"""
_DROPS = {1: 0.0, 10: 0.25, 50: 0.5, 100: 0.5, 500: 0.25}  # of EDF on DATM's rows
_EDF_OWN: dict[tuple[str, int], Fields] = {
    ("cifar10", 1000): {"drop": 0.25, "cam_every": 200, "act_threshold": 0.5},
    ("tiny-imagenet", 10): {"drop": 0.5, "cam_every": 100},
    ("tiny-imagenet", 50): {"drop": 0.5, "cam_every": 100, "act_threshold": 0.5},
    ("tiny-imagenet", 100): {"drop": 0.5, "cam_every": 200, "act_threshold": 0.5},
}
_ROOM = 1.5  # threshold where CPD raises the loss and DATM's threshold is for one without
_DATA: dict[str, Fields] = {
    "cifar10": {"net": "convnet3", "cam_net": "expert"},
    "cifar100": {"net": "convnet3", "cam_net": "expert"},
    "tiny-imagenet": {"net": "convnet4", "cam_net": "resnet18", "cam_protocol": "squeeze-tiny", "cam_epochs": 50},
}
_SUBSET: Fields = {"size": 128, "net": "convnet5", "cam_net": "timm:resnet18.tv_in1k"}
_EDF_CODE: Fields = {"dsa_crop": 0.25, "protocol": "edf"}
_DATM_CODE: Fields = {"dsa_crop": 0.125, "protocol": "datm"}

PLAIN: Fields = {"drop": 0.0, "cam": "none"}  # DATM
_MTT: Fields = {**PLAIN, "labels": "hard", "init": "real", "expert_opt": "sgd", "train_epochs": 50, "sequential": False}

# An hour on one core with the experts, which a data set's presets share; N · η at the start is that of the rows.
# lr_img for CIFAR-10: of 100, 300 and 1000 with one image a class the best for students of the start of a run, on 5,000
# training images; with ten the higher ones diverge.
_SMALL: Fields = {
    "n_experts": 3,
    "train_epochs": 10,
    "syn_steps": 20,
    "lr_teacher": 0.04,
    "lr_img": 1000.0,
    "expansion_end_epoch": 100,
    "cam_net": "expert",
    "cam_every": 10,
    "student_epochs": 300,
}
_CPU: dict[str, Fields] = {
    "cifar10-ipc1": {"net": "convnet3-w32", "iterations": 400},
    "cifar10-ipc10": {
        "net": "convnet3-w32",
        "iterations": 200,
        "batch_syn": 50,
        "lr_img": 100.0,
        "threshold": 1.5,
        "current_max_start_epoch": 4,
        "max_start_epoch": 8,
    },
    "imagenette-ipc1": {
        "net": "convnet5-w32",
        "n_experts": 2,
        "train_epochs": 5,
        "iterations": 100,
        "syn_steps": 10,
        "lr_img": 10_000.0,
        "current_max_start_epoch": 2,
        "max_start_epoch": 3,
    },
}
_ABLATION: dict[str, Fields] = {"dae": {"drop": 0.0}, "cpd": {"cam": "none"}}


def _number(word: str) -> int | float:
    return int(word) if word.isdigit() else float(word)


def _subsets() -> Iterator[tuple[str, Fields]]:
    names = "ipc syn_steps batch_syn lr_img lr_y threshold current_max_start_epoch max_start_epoch "
    names += "expansion_end_epoch drop cam_every beta"
    for line in _SUBSETS.split("\n")[1:-1]:
        dataset, *words = line.split()
        row: Fields = dict(zip(names.split(), map(_number, words), strict=True))
        more = _EXCEPTIONS.get((dataset, row["ipc"]), {})
        yield dataset, {"dataset": dataset, **_SUBSET, **_EDF_CODE, **row, **more}


def _rows(text: str) -> Iterator[tuple[str, int, Fields]]:
    names = "ipc syn_steps batch_syn lr_img lr_y lr_lr threshold min_start_epoch current_max_start_epoch "
    names += "max_start_epoch expansion_end_epoch expert_epochs"
    for line in text.split("\n")[1:-1]:
        dataset, *words = line.split()
        row: Fields = dict(zip(names.split(), map(_number, words), strict=True))
        if row["expansion_end_epoch"] == 0:
            row |= {"sequential": False, "expansion_end_epoch": 1}
        yield dataset, row["ipc"], {"dataset": dataset, **_DATA[dataset], **row}


def rows() -> dict[str, Fields]:
    """Fields by preset: `DATASET-ipcN` is EDF, with `datm-` and `mtt-` in front what they are compared with.

    MTT is DATM with hard labels, random images, experts of SGD and 50 epochs, and no sequential window; it is there
    where the window fits its experts. `-cpu` behind is what a CPU can do, and `cifar10-ipc10-dae` and `-cpd` are EDF
    with one of its two parts.
    """
    found: dict[str, Fields] = {}
    for dataset, row in _subsets():
        name = f"{dataset}-ipc{row['ipc']}"
        found |= {name: row, f"datm-{name}": {**row, **PLAIN}}
    for dataset, ipc, row in _rows(_DATM):
        name, row = f"{dataset}-ipc{ipc}", {**row, **_DATM_CODE}
        if (dataset, ipc) == ("cifar100", 50):
            row["init"] = "real"
        found[f"datm-{name}"] = {**row, **PLAIN}
        if (dataset, ipc) not in _EDF_OWN:
            drop = _DROPS[ipc]
            more = {"drop": drop, "cam_every": 50 if ipc == 1 else 100}
            found[name] = {**row, **more, **({"threshold": _ROOM} if drop else {})}
    for dataset, ipc, row in _rows(_EDF):
        name, row = f"{dataset}-ipc{ipc}", {**row, **_EDF_CODE, **_EDF_OWN[dataset, ipc]}
        found[name] = row
        found.setdefault(f"datm-{name}", {**row, **PLAIN})
    for name in [name for name in found if name.startswith("datm-")]:
        row = found[name]
        if row["max_start_epoch"] + row.get("expert_epochs", 2) <= _MTT["train_epochs"]:
            found[name.replace("datm", "mtt")] = {**row, **_MTT}
    for name, how in _CPU.items():
        found |= {f"{kind}{name}-cpu": {**found[f"{kind}{name}"], **_SMALL, **how} for kind in ("", "datm-", "mtt-")}
    for what, change in _ABLATION.items():
        found |= {f"cifar10-ipc10-{what}{tier}": {**found[f"cifar10-ipc10{tier}"], **change} for tier in ("", "-cpu")}
    return found
