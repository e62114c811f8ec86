"""Subsets of ImageNet-1k that papers on dataset distillation use, as sources by name: `imagemeow`, `birds-easy`, ...

The classes are listed in `assets/imagenet-subsets.toml`.

* ImageMeow, ImageYellow, ImageFruit and ImageSquawk (Cazenavette et al., 2022, arXiv 2203.11932). Imagenette and
  Imagewoof (NETTE and WOOF) have separate repositories (`ddhub.sources.known`), with labels in the order of the
  WordNet ids.
* Comp-DD (Wang et al., 2025, arXiv 2410.17193): of each of eight categories the classes of highest (hard) and lowest
  (easy) complexity (`ddhub.measures.complexity`). The published list of music-hard names banjo (420) twice: it has nine
  classes here, and its 11,700 published training images are nine times 1,300. fish has an alligator, a platypus and two
  whales, half of snake-hard is lizards, dogs-easy has a wolf; all are kept as published.

Images are 128 x 128 px by the rule of `ddhub.sources.resize`, which takes the centre square. The papers' codes squash
the whole image to 128 x 128 instead.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

SIDE = 128  # default side of the images in pixels


def _classes(text: str) -> dict[int, str]:
    """A dict from ImageNet-1k's label to the class name, in the order of the subset's labels."""
    pairs = (entry.strip().split(" ", 1) for entry in text.split(","))
    return {int(label): name for label, name in pairs}


_LISTS = tomllib.loads((Path(__file__).parents[1] / "assets" / "imagenet-subsets.toml").read_text())
NETTE: dict[str, str] = _LISTS["imagenette"]
WOOF: dict[str, str] = _LISTS["imagewoof"]
CLASSIC = {title: _classes(text) for title, text in _LISTS["classic"].items()}
COMP_DD = {name: _classes(text) for name, text in _LISTS["comp-dd"].items()}
