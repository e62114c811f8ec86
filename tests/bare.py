"""What a user does, on a machine that has neither `datasets`, timm nor torchvision: python tests/bare.py OUT DATA.

Whoever imports one of them gets the error that an absent module gives. DATA is a data root with CIFAR-10.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType

ABSENT = ("datasets", "timm", "torchvision")


class Absent:
    """A finder that says of these modules that they are not there."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> None:
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def main(out: str, data: str) -> None:
    from ddhub.cli.app import cli
    from recipes.__main__ import group

    group().main(["infer", out, "--preset", "smoke"], standalone_mode=False)  # real data: cifar10-mini
    student = ["--model", "convnet3-bn-w8", "--epochs", "1", "--record", "--data", data]
    for words in (
        ["list"],
        ["verify", out],
        ["train", out, *student],
        ["train", "cifar10-random-ipc1", *[word for word in student if word != "--record"]],  # real data: files
        ["card", out],
    ):
        print("$", words[0])
        cli.main(words, standalone_mode=False)


if __name__ == "__main__":
    sys.meta_path.insert(0, Absent())  # type: ignore[arg-type]
    main(*sys.argv[1:])
