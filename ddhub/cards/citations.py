"""BibTeX of what a result is built on: the artifact, its method, its data set, and ddhub.

Data sets are cited as their makers ask; the user's own images (`folder:`) are theirs to cite.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ddhub import __version__
from ddhub.artifact.manifest import Manifest
from ddhub.sources.subsets import CLASSIC, COMP_DD

_CIFAR = """@techreport{krizhevsky2009cifar,
  title = {Learning Multiple Layers of Features from Tiny Images},
  author = {Krizhevsky, Alex},
  institution = {University of Toronto},
  year = {2009}
}"""
_IMAGENETTE = """@misc{howard2019imagenette,
  title = {Imagenette},
  author = {Howard, Jeremy},
  year = {2019},
  howpublished = {https://github.com/fastai/imagenette}
}"""
_IMAGENET = """@article{russakovsky2015imagenet,
  title = {{ImageNet} Large Scale Visual Recognition Challenge},
  author = {Russakovsky, Olga and Deng, Jia and Su, Hao and Krause, Jonathan and Satheesh, Sanjeev and Ma, Sean and
    Huang, Zhiheng and Karpathy, Andrej and Khosla, Aditya and Bernstein, Michael and Berg, Alexander C. and
    Fei-Fei, Li},
  journal = {International Journal of Computer Vision},
  volume = {115},
  number = {3},
  pages = {211--252},
  year = {2015}
}"""
MTT = """@inproceedings{cazenavette2022distillation,
  title = {Dataset Distillation by Matching Training Trajectories},
  author = {Cazenavette, George and Wang, Tongzhou and Torralba, Antonio and Efros, Alexei A. and Zhu, Jun-Yan},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2022},
  note = {arXiv:2203.11932}
}"""
EDF = """@inproceedings{wang2025edf,
  title = {Emphasizing Discriminative Features for Dataset Distillation in Complex Scenarios},
  author = {Wang, Kai and Li, Zekai and Cheng, Zhi-Qi and Khaki, Samir and Sajedi, Ahmad and Vedantam, Ramakrishna
            and Plataniotis, Konstantinos N. and Hauptmann, Alexander and You, Yang},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2025},
  note = {arXiv:2410.17193}
}"""
_DATASETS = {
    "cifar10": _CIFAR,
    "cifar10-mini": _CIFAR,
    "cifar100": _CIFAR,
    "mnist": """@article{lecun1998mnist,
  title = {Gradient-Based Learning Applied to Document Recognition},
  author = {LeCun, Yann and Bottou, L{\\'e}on and Bengio, Yoshua and Haffner, Patrick},
  journal = {Proceedings of the IEEE},
  volume = {86},
  number = {11},
  pages = {2278--2324},
  year = {1998}
}""",
    "fashion-mnist": """@misc{xiao2017fashion,
  title = {Fashion-{MNIST}: a Novel Image Dataset for Benchmarking Machine Learning Algorithms},
  author = {Xiao, Han and Rasul, Kashif and Vollgraf, Roland},
  year = {2017},
  note = {arXiv:1708.07747}
}""",
    "svhn": """@inproceedings{netzer2011svhn,
  title = {Reading Digits in Natural Images with Unsupervised Feature Learning},
  author = {Netzer, Yuval and Wang, Tao and Coates, Adam and Bissacco, Alessandro and Wu, Bo and Ng, Andrew Y.},
  booktitle = {NIPS Workshop on Deep Learning and Unsupervised Feature Learning},
  year = {2011}
}""",
    "tiny-imagenet": """@misc{le2015tiny,
  title = {Tiny {ImageNet} Visual Recognition Challenge},
  author = {Le, Ya and Yang, Xuan},
  year = {2015},
  note = {CS 231N, Stanford University}
}""",
    "imagenette": _IMAGENETTE,
    "imagewoof": _IMAGENETTE,
    "imagenet-1k": _IMAGENET,
    **{title.lower(): f"{MTT}\n{_IMAGENET}" for title in CLASSIC},
    **{name: f"{EDF}\n{_IMAGENET}" for name in COMP_DD},
}


def citations(manifests: Iterable[Manifest], datasets: Iterable[str] = ()) -> list[str]:
    """BibTeX entries of artifacts, what they are built on, further data sets, and ddhub; each key once."""
    blocks: list[str] = []
    for m in manifests:
        blocks += [_artifact(m), m.citation, _DATASETS.get(m.dataset, "")]
    blocks += [_DATASETS.get(name, "") for name in datasets]
    blocks.append(
        f"@software{{ddhub,\n  title = {{ddhub: distilled datasets that load by name}},\n"
        f"  version = {{{__version__}}}\n}}"
    )
    found: dict[str, str] = {}
    for entry in (entry for block in blocks for entry in _entries(block)):
        found.setdefault(_key(entry), entry)
    return list(found.values())


def _artifact(m: Manifest) -> str:
    """An entry of the artifact itself: the digest says which images a paper means."""
    return (
        f"@misc{{{m.name},\n  title = {{{{{m.name}}}: {m.dataset} distilled by {m.method}, ipc {m.ipc}}},\n"
        f"  note = {{ddhub artifact, digest {m.digest}}}\n}}"
    )


def _entries(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"(?m)^(?=@)", text) if part.strip()]


def _key(entry: str) -> str:
    match = re.match(r"@\w+\{\s*([^,\s]+)", entry)
    return match[1] if match else entry
