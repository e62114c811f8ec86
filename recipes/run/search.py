"""The search for an encoding, `--encoding auto`: at equal bytes, what a small student learns most from.

    cfg = found(recipe, cfg, run, "134000", Proxy(model="convnet3-w64"))    # of the encoding that run now has

Lower quality buys more images. Of each candidate the method makes the set that the bytes hold, out of training images
of which a part is held out (`ddhub.sources.held_out`); a student, the proxy, learns it as the recipe recommends, and
is scored on the held-out images. All proxies take as many steps, to half an epoch. Test images play no part. A
candidate that would need more images than a class has is left out: it does not fill its bytes.

The size of a candidate and its proxy are stages, so that the same command goes on. The table of all goes into the log
and, with the encoding that was taken, into the facts of the run: the card shows it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from types import ModuleType
from typing import Any

import torch

from ddhub.artifact.codec import check_codec
from ddhub.artifact.encoding import parse
from ddhub.artifact.folder import Artifact
from ddhub.data.view_labels import Stored
from ddhub.errors import UsageError
from ddhub.models import DEPTHS
from ddhub.protocols.named import changed
from ddhub.protocols.protocol import Protocol
from ddhub.sources.known import FOLDER
from ddhub.sources.source import Source
from ddhub.training import ranks
from ddhub.training.batches import DistilledData
from ddhub.training.loop import train
from ddhub.training.open import open_data
from recipes.run.budget import in_all, kept_to, room, stored
from recipes.run.plan import Line, lines, student_line
from recipes.run.run import Run
from recipes.run.units import numbered

log = logging.getLogger(__name__)

AUTO = "auto"
CANDIDATES = ("png", "webp:30", "webp:50", "avif:20", "avif:30", "avif:40", "avif:50", "avif:70")
_HELD_OUT = 5000  # images at most, and a tenth of every class


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """Which encodings are tried, and by which student.

    Attributes:
        model: the student; if empty, the ConvNet of width 32 that is as deep as the images allow.
        steps: of each student.
        seeds: students of a candidate.
        candidates: encodings.
    """

    model: str = ""
    steps: int = 400
    seeds: int = 1
    candidates: tuple[str, ...] = CANDIDATES

    def __post_init__(self) -> None:
        for text in self.candidates:
            check_codec(parse(text)["codec"])
        if not self.candidates or self.steps < 1 or self.seeds < 1:
            raise UsageError("a search needs candidates, steps and seeds; give one or more of each")

    def student(self, source: Source) -> str:
        """The model's name."""
        depth = max(DEPTHS[0], min(DEPTHS[-1], source.images.shape[2].bit_length() - 3))
        return self.model or f"convnet{depth}-w32"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What came of an encoding.

    Attributes:
        encoding: its name.
        ipc, bytes, steps: images a class and stored bytes of its set, and steps of a student.
        accuracy: percent of the held-out images, the mean over the students.
        skipped: why it was not tried; empty if it was.
    """

    encoding: str
    ipc: int = 0
    bytes: int = 0
    steps: int = 0
    accuracy: float = 0.0
    skipped: str = ""

    @property
    def text(self) -> str:
        """A line of the log."""
        if self.skipped:
            return f"{self.encoding}: not tried, {self.skipped}"
        size = f"{self.ipc} images a class, {self.bytes:,} bytes"
        return f"{self.encoding}: {size}, {self.accuracy:.2f} % of the held-out images"


def found(recipe: ModuleType, cfg: Any, run: Run, size: str, proxy: Proxy) -> Any:
    """The Config with as many images a class as `size` bytes hold in the best encoding, which becomes the run's.

    Raises:
        UsageError: a method that learns its images, images of which none can be held out, or no candidate to try.
    """
    if ranks.world() > 1:
        raise UsageError("--encoding auto is for one process; run it without torchrun, or name an encoding")
    split, budget, source = _prepared(recipe, cfg, run, size)
    tried = []
    for number, text in enumerate(proxy.candidates, 1):
        tried.append(_tried(recipe, split, run, text, budget, proxy))
        log.info("candidate %d of %d, %s", number, len(proxy.candidates), tried[-1].text)
    best = max((x for x in tried if not x.skipped), key=lambda x: x.accuracy, default=None)
    if best is None:
        raise UsageError(f"{_all_skipped(tried, budget)}; name an --encoding, or give another --bytes")
    log.info("encoding %s, chosen on held-out training images of %s", best.encoding, split.dataset)
    run.encoding = parse(best.encoding)
    run.facts["encodings"] = {
        "held_out": split.dataset, "model": proxy.student(source), "seeds": proxy.seeds, "bytes": budget,
        "chosen": best.encoding, "candidates": [asdict(x) for x in tried],
    }  # fmt: skip
    return kept_to(recipe, cfg, run, budget, room(recipe, cfg, run, budget)[0])


def planned(
    recipe: ModuleType, cfg: Any, run: Run, size: str, proxy: Proxy, machine: str = ""
) -> tuple[Any, list[Line]]:
    """What a search would do, for a dry run: its stages, and the Config of the candidate of the most images.

    Stages that candidates share are told once. UsageError as of `found`.
    """
    split, budget, source = _prepared(recipe, cfg, run, size)
    told, known = [], set[tuple[str, int]]()
    largest, plan = (0, ""), recipe.students(cfg)
    proxies = changed(plan, epochs=proxy.steps, warmup=0)  # as many steps as epochs, of one batch
    for text in proxy.candidates:
        part = _part(recipe, split, run, text)
        ipc, full = room(recipe, split, part, budget)
        if not ipc or full:
            log.info("%s: not tried, %s", text, _reason(ipc))
            continue
        log.info("%s: %d images a class", text, ipc)
        largest = max(largest, (ipc, text))
        for line in lines(recipe, replace(split, ipc=ipc), part, machine):
            told += [] if line[:2] in known else [line._replace(stage=f"{line.stage}, {text}")]
            known.add(line[:2])
        shape, classes = source.images.shape[1:], len(source.classes)
        one = student_line(proxy.student(source), proxies, plan.batch_size, shape, classes, part, machine)
        told += [one._replace(stage=stage) for stage in _students(text, proxy)]
    if not largest[0]:
        raise UsageError(f"no candidate fills {budget:,} bytes; name an --encoding, or give another --bytes")
    run.encoding = parse(largest[1])
    return replace(cfg, ipc=largest[0]), told


def require_real(recipe: ModuleType) -> None:
    """UsageError for a method that learns its images: what each encoding holds would have to be learned first."""
    if not hasattr(recipe, "stored"):
        command = recipe.__name__.rpartition(".")[2].replace("_", "-")
        raise UsageError(
            f"--encoding auto is for methods that store real images, and {command} learns its own; name an encoding"
        )


def _prepared(recipe: ModuleType, cfg: Any, run: Run, size: str) -> tuple[Any, int, Source]:
    """The Config on data of which a part is held out, the bytes, and the training images. UsageError."""
    require_real(recipe)
    if cfg.dataset.startswith(FOLDER):
        raise UsageError(f"--encoding auto holds images out, which {cfg.dataset} has no name for; name an encoding")
    source = run.source(cfg.dataset, "train", getattr(cfg, "size", None) or None)
    budget, classes = in_all(size, len(source.classes)), len(source.classes)
    least = int(torch.bincount(source.labels, minlength=classes).min())
    each = min(max(1, _HELD_OUT // classes), least // 10)
    if not each:
        raise UsageError(
            f"--encoding auto holds images out, and a class of {source.name} has {least}; name an encoding"
        )
    return replace(cfg, dataset=f"{cfg.dataset}/{each * classes}"), budget, source


def _part(recipe: ModuleType, split: Any, run: Run, text: str) -> Run:
    """The run of a candidate, whose stages lie beside the whole run's."""
    return Run(
        recipe,
        split,
        run.work / "candidates" / _word(text),
        root=run.root,
        device=str(run.device),
        precision=run.precision,
        work=run.work,
        encoding=text,
        label_bits=run.label_bits,
    )


def _tried(recipe: ModuleType, split: Any, run: Run, text: str, budget: int, proxy: Proxy) -> Candidate:
    """Make the set of a candidate and score its students."""
    part = _part(recipe, split, run, text)
    source = part.source(split.dataset, "train", getattr(split, "size", None) or None)

    def size() -> dict[str, torch.Tensor]:
        return {"room": torch.tensor([int(x) for x in room(recipe, split, part, budget)])}

    first, _ = stored(recipe, replace(split, ipc=1), source, part)  # other teachers may choose other images
    asked = {"config": asdict(split), "bytes": budget, "bits": run.label_bits, "encoding": text, "first": _hash(first)}
    ipc, full = run.stage(f"size-{_word(text)}", size, asked)["room"].tolist()
    if not ipc or full:
        return Candidate(encoding=text, skipped=_reason(ipc))
    part.cfg = kept_to(recipe, split, part, budget, ipc)
    artifact: Artifact = recipe.distill(part.cfg, part)
    data: DistilledData = open_data(artifact)
    plan, model = _plan(data, proxy.steps), proxy.student(source)
    held = part.source(split.dataset, "test", source.images.shape[2])
    scores = []
    for seed, stage in enumerate(_students(text, proxy)):
        asked = {"content": artifact.manifest.content, "protocol": plan.to_json(), "model": model, "seed": seed}
        checkpoint = run.path(stage, asked).with_suffix(".checkpoint")

        def student(seed: int = seed, checkpoint: Any = checkpoint) -> dict[str, torch.Tensor]:
            _, result = train(
                data,
                model,
                protocol=plan,
                seed=seed,
                test=held,
                device=run.device,
                precision=run.precision,
                checkpoint=checkpoint,
            )
            return {"accuracy": torch.tensor(result.accuracy, dtype=torch.float64)}

        scores.append(float(run.stage(stage, student, asked)["accuracy"]))
    run.seconds |= {f"{name}, {text}": seconds for name, seconds in part.seconds.items()}
    run.computed |= {f"{name}, {text}": facts for name, facts in part.computed.items()}
    return Candidate(
        encoding=text,
        ipc=ipc,
        bytes=artifact.manifest.stored_bytes,
        steps=plan.epochs * data.using(protocol=plan).steps_per_epoch,
        accuracy=sum(scores) / len(scores),
    )


def _plan(data: DistilledData, steps: int) -> Protocol:
    """The protocol of the data with the epochs that come closest to so many steps, its warm-up in proportion."""
    plan = data.protocol
    epochs = max(1, round(steps / data.steps_per_epoch))
    if isinstance(data.labels, Stored) and not data.labels.spec.once:
        epochs = min(epochs, data.labels.epochs)
    return changed(plan, epochs=epochs, warmup=min(epochs - 1, round(plan.warmup * epochs / plan.epochs)))


def _students(text: str, proxy: Proxy) -> list[str]:
    """The stages of a candidate's students."""
    return numbered(f"candidate-{_word(text)}", proxy.seeds)


def _reason(ipc: int) -> str:
    return "a class has no more images" if ipc else "the bytes hold not one image a class"


def _all_skipped(tried: Sequence[Candidate], budget: int) -> str:
    return f"no candidate fills {budget:,} bytes ({'; '.join(dict.fromkeys(x.skipped for x in tried))})"


def _word(text: str) -> str:
    """An encoding as a part of a file's name."""
    return text.replace(":", "-").replace("/", "-")


def _hash(images: torch.Tensor) -> str:
    return hashlib.sha256(images.contiguous().numpy().tobytes()).hexdigest()
