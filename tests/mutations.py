"""Random mutations of a valid artifact: loading each either raises ArtifactError or gives what it may give.

    python tests/mutations.py                         100,000 of them, seed 0
    python tests/mutations.py --first 4711 --count 1  one of them again

What it may give depends on whether hashes, seals and digest were made right again after the change:

    damaged   they were not: what is loaded equals the original in its manifest and in every image, label and tensor,
              and its results are some of the original's. (Whole lines of results.jsonl and the whole card may go: they
              grow after publication, and are sealed one by one.)
    forged    they were: equality is impossible, as anyone may publish another artifact. What is loaded is within the
              rules: images, labels and tensors of the types, shapes and ranges that the manifest says and all finite,
              and its first and last item are finite images and targets. If only the manifest was forged, then images,
              labels and tensors equal the original's, as their files do.

Anything else is a failure and is printed with its number: another exception, a warning, ten seconds, the end of the
process. Mutation i depends on seed and i alone.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import torch

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent / "artifact")]

from changes import KINDS, Files
from test_artifact import contents, tiny

import ddhub
from ddhub.artifact.folder import Artifact
from ddhub.artifact.manifest import README, seal_text
from ddhub.data.decode import quantize
from ddhub.errors import ArtifactError
from ddhub.protocols.protocol import Augment, Protocol

SECONDS = 10  # for one mutation
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # a busy disk takes 10 times as long


def original(folder: Path) -> Artifact:
    """A small artifact with every file: six images of 3 x 4 x 6 pixels, two compensators, soft labels, two results."""
    rng = torch.Generator().manual_seed(0)
    compensators, scale = quantize(torch.randn(1, 2, 3, 4, 6, generator=rng))
    artifact = Artifact.write(
        folder,
        manifest=tiny(
            decoder={"kind": "compensate"},
            pixel_range=((0.0, 1.0),) * 3,
            protocol=Protocol(epochs=3, batch_size=4, augment=Augment(crop_padding=1, flip=0.5)).to_json(),
        ),
        images=torch.randint(0, 256, (6, 3, 4, 6), dtype=torch.uint8, generator=rng),
        image_labels=torch.tensor([0, 0, 1, 1, 2, 2]),
        tensors={
            "decoder.compensators": compensators,
            "decoder.scale": scale,
            "labels.logits": torch.randn(12, 3, generator=rng).half(),
            "labels.used": torch.tensor([True, False]),
        },
    )
    artifact.add_result({"accuracy": 41.5, "seed": 0})
    artifact.add_result({"accuracy": 42.25, "seed": 1})
    (folder / README).write_text(seal_text("# Tiny"), encoding="utf-8", newline="")
    return Artifact.open(folder)


# ---------------------------------------------------------------- what may be loaded


def same_content(one: Artifact, two: Artifact) -> bool:
    ours, theirs = ({"i": x.images(), "l": x.image_labels(), **x.tensors()} for x in (one, two))
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def check_lawful(artifact: Artifact, data: ddhub.training.batches.DistilledData) -> None:
    """AssertionError unless all that was loaded is within the rules."""
    m, images, labels = artifact.manifest, artifact.images(), artifact.image_labels()
    stored = m.tensors["images"]["shape"]
    assert [*images.shape] == stored == [len(labels), *m.image_size] and images.dtype == torch.uint8
    assert labels.dtype == torch.int64 and labels.min() >= 0 and labels.max() < len(m.classes)
    for name, tensor in artifact.tensors().items():
        assert [*tensor.shape] == m.tensors[name]["shape"] and bool(tensor.double().isfinite().all())
    dataset = data.as_dataset()
    for item in {0, len(data) - 1}:
        x, target = dataset[item]
        assert x.shape == m.image_size and bool(x.isfinite().all()), "an image is not finite"
        assert target.shape == (len(m.classes),) and bool(target.isfinite().all()), "a target is not finite"
        logits = torch.zeros(1, len(m.classes))
        assert bool(data.loss(logits, target[None]).isfinite()), "a loss is not finite"


def outcome(folder: Path, kind: str, whole: Artifact) -> str:
    """What loading the folder came to: "refused", "equal", "lawful", or else what is wrong."""
    try:
        data = ddhub.load(folder)
        artifact = Artifact.open(folder)
        if kind == "damage":
            equal = artifact.manifest == whole.manifest and same_content(artifact, whole)
            known = all(result in whole.results() for result in artifact.results())
            return "equal" if equal and known else "NOT EQUAL"
        check_lawful(artifact, data)
        assert kind != "forge_manifest" or same_content(artifact, whole), "other content"
        return "lawful"
    except ArtifactError as error:
        assert "\n" not in str(error), "a message of two lines"
        return "refused"


# ---------------------------------------------------------------- the loop


def mutate(files: Files, seed: int, number: int) -> tuple[str, Files]:
    rng = random.Random(f"{seed} {number}")
    change = rng.choice(KINDS)
    return change.__name__, change(files, rng)


def put(folder: Path, files: Files, before: Files) -> None:
    """Make a folder that holds `before` hold `files`."""
    for name in before.keys() - files.keys():
        (folder / name).unlink()
    for name, data in files.items():
        if before.get(name) != data:
            (folder / name).write_bytes(data)


def run(count: int, seed: int, first: int = 0) -> tuple[Counter[str], list[str]]:
    """How often each kind of mutation had which outcome, and a line for each failure."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as top:
        return _run(count, seed, first, Path(top))


def _run(count: int, seed: int, first: int, top: Path) -> tuple[Counter[str], list[str]]:
    whole, folder = original(top / "whole"), top / "mutated"
    files = contents(whole.folder)
    whole.verify()
    shutil.copytree(whole.folder, folder)
    counts: Counter[str] = Counter()
    failures: list[str] = []
    for number in range(first, first + count):
        kind, changed = mutate(files, seed, number)
        put(folder, changed, files)
        begin = time.process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                found = outcome(folder, kind, whole)
        except Exception as error:
            found = f"{type(error).__name__}: {error}"
        if time.process_time() - begin > SECONDS:
            found = f"{time.process_time() - begin:.0f} s"
        if found not in ("refused", "equal", "lawful"):
            failures.append(f"mutation {number} of seed {seed}, {kind}: {found[:300]}")
            found = "FAILED"
        counts[f"{kind}: {found}"] += 1
        put(folder, files, changed)
    return counts, failures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    totals, wrong, begin = Counter[str](), 0, time.perf_counter()
    end = chosen.first + chosen.count
    for first in range(chosen.first, end, 1000):
        counts, failures = run(min(1000, end - first), chosen.seed, first)
        totals += counts
        wrong += len(failures)
        print(
            *failures, f"{first:,} and on: {time.perf_counter() - begin:,.0f} s, {wrong} failures", sep="\n", flush=True
        )
    print(*(f"{name:28}{count:>9,}" for name, count in sorted(totals.items())), sep="\n")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
