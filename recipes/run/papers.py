"""Published results and how they are cited.

NRR-DD (arXiv 2503.18267), RDED (2312.03526), IDC (2205.14959), EDF (2410.17193), DATM (2310.05773), MTT (2203.11932).
"""

from __future__ import annotations

from typing import Any

from ddhub.cards.citations import bibtex

# (data set, ipc, labels) -> student -> (accuracy, sd or None), in percent
Paper = dict[tuple[str, int, str], dict[str, tuple[float, float | None]]]

MTT = bibtex("cazenavette2022distillation")
EDF = bibtex("wang2025edf")
NRR_DD = """@inproceedings{tran2025nrrdd,
  title = {Enhancing Dataset Distillation via Non-Critical Region Refinement},
  author = {Tran, Minh-Tuan and Le, Trung and Le, Xuan-May and Do, Thanh-Toan and Phung, Dinh},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2025},
  note = {arXiv:2503.18267}
}"""
RDED = """@inproceedings{sun2024diversity,
  title = {On the Diversity and Realism of Distilled Dataset: An Efficient Dataset Distillation Paradigm},
  author = {Sun, Peng and Shi, Bei and Yu, Daiwei and Lin, Tao},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2024},
  note = {arXiv:2312.03526}
}"""
IDC = """@inproceedings{kim2022dataset,
  title = {Dataset Condensation via Efficient Synthetic-Data Parameterization},
  author = {Kim, Jang-Hyun and Kim, Jinuk and Oh, Seong Joon and Yun, Sangdoo and Song, Hwanjun and Jeong, Joonhyun
            and Ha, Jung-Woo and Song, Hyun Oh},
  booktitle = {International Conference on Machine Learning},
  year = {2022},
  note = {arXiv:2205.14959}
}"""
UDD = """@inproceedings{wang2024udd,
  title = {UDD: Dataset Distillation via Mining Underutilized Regions},
  author = {Wang, Shiguang and Zhang, Zhongyu and Cheng, Jian},
  booktitle = {Chinese Conference on Pattern Recognition and Computer Vision},
  year = {2024},
  note = {arXiv:2408.16268}
}"""
DATM = """@inproceedings{guo2024datm,
  title = {Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching},
  author = {Guo, Ziyao and Wang, Kai and Cazenavette, George and Li, Hui and Zhang, Kaipeng and You, Yang},
  booktitle = {International Conference on Learning Representations},
  year = {2024},
  note = {arXiv:2310.05773}
}"""
# (data set, ipc, labels) -> student -> (accuracy, sd), in percent. NRR-DD: Table 2 of CIM for Tiny-ImageNet and
# ImageNet-1k, a digest of the paper for the rest. RDED: its Table 2.
_FULL = {
    ("cifar10", 10): (72.2, None), ("cifar100", 10): (62.7, None),
    ("tiny-imagenet", 1): (13.5, 0.2), ("tiny-imagenet", 10): (45.2, 0.2), ("tiny-imagenet", 50): (61.2, 0.1),
    ("imagenet-1k", 1): (11.6, 0.2), ("imagenet-1k", 10): (46.1, 0.0), ("imagenet-1k", 50): (60.1, 0.1),
}  # fmt: skip
NRR_DD_TABLE: Paper = {
    **{(*key, labels): {"resnet18": row} for key, row in _FULL.items() for labels in ("soft", "teacher")},
    ("imagenet-1k", 50, "dbr"): {"resnet18": (45.1, None)},
    ("imagenet-1k", 50, "hard"): {"resnet18": (32.4, None)},
}
_RDED = {  # ConvNet, ResNet-18
    ("cifar10", 1): ((23.5, 0.3), (22.9, 0.4)), ("cifar10", 10): ((50.2, 0.3), (37.1, 0.3)),
    ("cifar10", 50): ((68.4, 0.1), (62.1, 0.1)), ("cifar100", 1): ((19.6, 0.3), (11.0, 0.3)),
    ("cifar100", 10): ((48.1, 0.3), (42.6, 0.2)), ("cifar100", 50): ((57.0, 0.1), (62.6, 0.1)),
    ("tiny-imagenet", 1): ((12.0, 0.1), (9.7, 0.4)), ("tiny-imagenet", 10): ((39.6, 0.1), (41.9, 0.2)),
    ("tiny-imagenet", 50): ((47.6, 0.2), (58.2, 0.1)), ("imagenette", 1): ((33.8, 0.8), (35.8, 1.0)),
    ("imagenette", 10): ((63.2, 0.7), (61.4, 0.4)), ("imagenette", 50): ((83.8, 0.2), (80.4, 0.4)),
    ("imagewoof", 1): ((18.5, 0.9), (20.8, 1.2)), ("imagewoof", 10): ((40.6, 2.0), (38.5, 2.1)),
    ("imagewoof", 50): ((61.5, 0.3), (68.5, 0.7)), ("imagenet-1k", 1): ((6.4, 0.1), (6.6, 0.2)),
    ("imagenet-1k", 10): ((20.4, 0.1), (42.0, 0.1)), ("imagenet-1k", 50): ((38.4, 0.2), (56.5, 0.1)),
}  # fmt: skip
_CONVNETS = {"cifar10": 3, "cifar100": 3, "tiny-imagenet": 4, "imagenette": 5, "imagewoof": 5, "imagenet-1k": 4}
RDED_TABLE: Paper = {
    (*key, "teacher"): {f"convnet{_CONVNETS[key[0]]}-bn": convnet, "resnet18": resnet}
    for key, (convnet, resnet) in _RDED.items()
}
# The official code's README; ConvNet-3, hard labels. Of UDD no accuracy is published outside its paper.
_IDC = {  # IDC-I, IDC
    ("cifar10", 1): (36.7, 50.6), ("cifar10", 10): (58.3, 67.5), ("cifar10", 50): (69.5, 74.5),
    ("cifar100", 10): (36.6, 45.1), ("svhn", 1): (46.7, 68.5), ("svhn", 10): (77.0, 87.5), ("svhn", 50): (87.9, 90.1),
    ("mnist", 1): (88.9, 94.2), ("mnist", 10): (98.0, 98.4), ("mnist", 50): (98.8, 99.1),
    ("fashion-mnist", 1): (70.7, 81.0), ("fashion-mnist", 10): (85.3, 86.0), ("fashion-mnist", 50): (89.1, 86.2),
}  # fmt: skip
IDC_I_TABLE, IDC_TABLE = (
    Paper({(*key, "hard"): {"convnet3": (row[i], None)} for key, row in _IDC.items()}) for i in range(2)
)
# EDF's main table: students ConvNet-5 of 128 px; means and standard deviations, - where the paper has none or an icon.
# subset ipc | MTT | DATM | EDF | EDF's images labelled by a teacher (knowledge distillation)
_EDF = """
    imagenette  1  47.7 0.9  52.5 1.0  52.6 0.5  25.7 0.4
    imagenette  10 63.0 1.3  68.9 0.8  71.0 0.8  64.5 0.6
    imagenette  50 - -       75.4 0.9  77.8 0.5  84.8 0.5
    imagewoof   1  28.6 0.8  30.4 0.7  30.8 1.0  19.2 0.2
    imagewoof   10 35.8 1.8  40.5 0.6  41.8 0.2  42.3 0.3
    imagewoof   50 - -       47.1 1.1  48.4 0.5  61.6 0.8
    imagemeow   1  30.7 1.6  34.0 0.5  34.5 0.2  20.8 0.5
    imagemeow   10 40.4 2.2  48.9 1.1  52.6 0.4  48.4 0.7
    imagemeow   50 - -       56.8 0.9  58.2 0.6  58.2 0.9
    imageyellow 1  45.2 0.8  48.5 0.4  49.4 0.5  33.5 0.6
    imageyellow 10 60.0 1.5  65.1 0.7  68.2 0.4  60.8 0.5
    imageyellow 50 - -       70.2 0.8  73.2 0.8  76.2 0.3
    imagefruit  1  26.6 0.8  30.9 1.0  32.8 0.6  29.6 0.4
    imagefruit  10 40.3 0.5  45.5 0.9  46.2 0.6  48.4 0.8
    imagefruit  50 - -       50.2 0.5  53.2 0.5  56.4 0.6
    imagesquawk 1  39.4 1.5  41.1 0.6  41.8 0.5  30.5 0.5
    imagesquawk 10 52.3 1.0  61.8 1.3  65.4 0.8  59.4 0.6
    imagesquawk 50 - -       71.0 1.2  74.8 1.2  77.8 0.5
"""
# DATM's main table: students ConvNet-3 on CIFAR, ConvNet-4 on Tiny-ImageNet.
# data set ipc | MTT | DATM
_DATM = """
    cifar10       1    46.2 0.8  46.9 0.5
    cifar10       10   65.4 0.7  66.8 0.2
    cifar10       50   71.6 0.2  76.1 0.3
    cifar10       500  - -       83.5 0.2
    cifar10       1000 - -       85.5 0.4
    cifar100      1    24.3 0.3  27.9 0.2
    cifar100      10   39.7 0.4  47.2 0.4
    cifar100      50   47.7 0.2  55.0 0.2
    cifar100      100  49.2 0.4  57.5 0.2
    tiny-imagenet 1    8.8 0.3   17.1 0.3
    tiny-imagenet 10   23.2 0.2  31.1 0.3
    tiny-imagenet 50   28.0 0.3  39.7 0.3
"""


def _columns(text: str, models: dict[str, str]) -> list[Paper]:
    """The tables of a text's columns, students by data set, labels soft but for the first column's."""
    columns: list[Paper] = [{} for _ in text.split("\n")[1].split()[2::2]]
    for line in text.split("\n")[1:-1]:
        dataset, ipc, *words = line.split()
        for column, mean, sd in zip(range(len(columns)), words[::2], words[1::2], strict=True):
            if mean != "-":
                key = (dataset, int(ipc), "soft" if column else "hard")
                columns[column][key] = {models.get(dataset, "convnet5"): (float(mean), float(sd))}
    return columns


_MODELS = {"cifar10": "convnet3", "cifar100": "convnet3", "tiny-imagenet": "convnet4"}
_OF_SUBSETS, _OF_SMALL = _columns(_EDF, _MODELS), _columns(_DATM, _MODELS)
MTT_TABLE, DATM_TABLE = ({**big, **small} for big, small in zip(_OF_SUBSETS[:2], _OF_SMALL, strict=True))
EDF_TABLE, EDF_KD_TABLE = _OF_SUBSETS[2:]


def paper_rows(paper: Paper, cfg: Any, method: str) -> list[dict[str, Any]]:
    """The paper's numbers for a configuration as the card shows them, one a student; none if it has no such row."""
    key = (cfg.dataset, cfg.ipc, cfg.labels)
    where = f"{method}, {cfg.dataset} ipc {cfg.ipc}, {cfg.labels} labels"
    rows = paper.get(key, {}).items()
    return [{"model": model, "accuracy": mean, "sd": sd, "where": where} for model, (mean, sd) in rows]
