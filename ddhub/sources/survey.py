"""A look at images of one's own before anything is decoded: classes, counts, sizes, modes, and what becomes of them.

survey("folder:/home/me/flowers")["modes"]      # {'RGB': 150, 'L': 20, 'RGBA': 10}

Only the headers of the files are read.
"""

from __future__ import annotations

import shlex
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from ddhub.errors import SourceError
from ddhub.sources.folder import Tree, read_tree, side_of
from ddhub.sources.known import FOLDER
from ddhub.sources.resize import header_of, is_deep, is_grey

_SHOWN = 5  # files that are named of a kind


def survey(name: str) -> dict[str, Any]:
    """What is known of `folder:PATH`, as a record for people and for JSON. Raises SourceError for what is no tree."""
    tree = read_tree(name)
    files = [file for part in tree.splits.values() for file in part.files()]
    with ThreadPoolExecutor(4) as pool:
        looks = dict(zip(files, pool.map(_look, files), strict=True))
    found = {file: x for file, x in looks.items() if isinstance(x, tuple)}
    broken = [f"{file}: {x}" for file, x in looks.items() if isinstance(x, str)]
    broken += [f"{file}: more than 8 bits a channel" for file, x in found.items() if is_deep(x[2])]
    others = [file for part in tree.splits.values() for file in part.others]
    least = min((len(x) for x in tree.splits["train"].classes.values()), default=0) if "train" in tree.splits else 0
    return {
        "name": tree.name,
        "splits": {split: f"{len(part.files()):,} images" for split, part in tree.splits.items()},
        "classes": list(tree.classes),
        "images": {split: {label: len(x) for label, x in part.classes.items()} for split, part in tree.splits.items()},
        **_sizes([x[:2] for x in found.values()]),
        **_modes(Counter(x[2] for x in found.values())),
        "left_out": _some(others),
        "cannot_be_read": broken[:_SHOWN] + ([f"and {len(broken) - _SHOWN} more"] if len(broken) > _SHOWN else []),
        "next": _next(name, tree, bool(broken), least),
    }


def _look(file: Path) -> tuple[int, int, str] | str:
    try:
        return header_of(file, "")
    except SourceError as error:
        return str(error).removeprefix(f"{file}: ").rstrip("; ")


def _sizes(sizes: list[tuple[int, int]]) -> dict[str, Any]:
    if not sizes:
        return {}
    ordered = sorted(sizes, key=lambda x: x[0] * x[1])
    side, words = side_of(sizes), f"{ordered[0][0]} x {ordered[0][1]} px"
    if len(set(sizes)) > 1:
        largest = f"{ordered[-1][0]} x {ordered[-1][1]} px"
        words = f"{words} to {largest}, {len(set(sizes))} different; shorter side {median(map(min, sizes)):g} px"
    become = (
        "stay as they are"
        if side is None
        else f"the centre square of each becomes {side} x {side} px (--size sets another)"
    )
    return {"sizes": words, "resized": become}


def _modes(modes: Counter[str]) -> dict[str, Any]:
    grey = bool(modes) and all(map(is_grey, modes))
    target = "L" if grey else "RGB"
    kinds = {"RGBA": "laid on white", "LA": "laid on white", "PA": "laid on white", "P": "by their palette"}
    changed = [f"{count} {mode}{f' ({kinds[mode]})' if mode in kinds else ''}" for mode, count in modes.most_common()
               if mode != target]  # fmt: skip
    become = f"{', '.join(changed)} become {'grey' if grey else 'RGB'}" if changed else "none"
    return {"modes": dict(modes.most_common()), "converted": become}


def _some(files: list[Path]) -> str:
    if not files:
        return "nothing"
    names = ", ".join(file.name for file in files[:_SHOWN]) + (", …" if len(files) > _SHOWN else "")
    return f"{len(files)} files that are not images: {names}"


def _next(name: str, tree: Tree, broken: bool, least: int) -> str:
    """What to do now: repair, add test images, or distil."""
    path = Path(name.removeprefix(FOLDER)).expanduser()
    if broken:
        return "repair or remove the files that cannot be read"
    if "test" not in tree.splits:
        return f"put test images into {path / 'test'}, one folder a class as for training ({path / 'train'})"
    if "train" not in tree.splits:
        return f"put training images into {path / 'train'}, one folder a class"
    ipc = min(10, least)
    words = ["python", "-m", "recipes", "infer", f"out/{_slug(tree.name)}", "--dataset", f"{FOLDER}{path}"]
    return shlex.join([*words, *(["--ipc", str(ipc)] if ipc < 10 else []), "--quick"])


def _slug(name: str) -> str:
    """A name for an artifact: lower-case letters and digits, joined by dashes."""
    letters = "".join(char if char.isascii() and char.isalnum() else "-" for char in name.removeprefix(FOLDER).lower())
    return "-".join(filter(None, letters.split("-")))[:80] or "images"
