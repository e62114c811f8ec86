"""Published results of NRR-DD (arXiv 2503.18267), RDED (2312.03526) and IDC (2205.14959), and how they are cited."""

from __future__ import annotations

from recipes import Paper

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
