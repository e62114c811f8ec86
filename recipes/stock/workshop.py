"""Where a stock run works: one step after the other, and what is done is known from the files alone.

    OUT/NAME      the artifacts, with the results of their students
    WORK          the stages of all of them: teachers and experts are keyed by settings and data, and so shared
    STOCK/NAME    what is stocked; what has the settings of the table is not made again

A step that was cut off goes on from its last finished stage or from a student's last saved epoch.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

from ddhub import hub
from ddhub.artifact.bundled import BUNDLED, has_data
from ddhub.artifact.folder import Artifact
from ddhub.artifact.manifest import MANIFEST, read_manifest
from ddhub.artifact.results import Entry, read
from ddhub.errors import ArtifactError, UsageError, first_line
from ddhub.io.files import is_alive, settle
from ddhub.protocols.protocol import Protocol
from ddhub.sources.source import Source, open_source
from ddhub.training.batches import DistilledData
from ddhub.training.devices import describe, resolve_device, resolve_precision
from ddhub.training.loop import train
from recipes.run.run import Run
from recipes.run.stages import make_folder
from recipes.stock import shelf
from recipes.stock.steps import Step
from recipes.stock.table import Item, Student

log = logging.getLogger("recipes")


class Workshop:
    """The folders of a stock run, and how its steps are done.

    Args:
        table: the items by name.
        out, work, stock: the folders.
        root, device, precision: of a Run.
        replace: whether what is stocked is made again, and stocked even if it is no better.
    """

    def __init__(
        self,
        table: Mapping[str, Item],
        *,
        out: Path,
        work: Path,
        stock: Path,
        root: str | None = None,
        device: str = "auto",
        precision: str = "auto",
        replace: bool = False,
    ) -> None:
        self.table, self.out, self.work, self.stock, self.replace = table, out, work, stock, replace
        self.root, self.device = root, resolve_device(device)
        self.precision = resolve_precision(precision, self.device)
        self._tests: dict[tuple[str, int], Source] = {}
        if work.resolve() in {out.resolve() / name for name in table}:
            raise UsageError(f"an artifact of the table lies in {work}, where the stages are; choose another --work")
        if out.resolve() in (stock.resolve(), BUNDLED.resolve()):
            raise UsageError(f"{out} is the stock, where nothing is made before it is compared; choose another --out")
        self._load = lru_cache(maxsize=1)(self._opened)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One stock run at a time in these folders; what killed ones left half written is removed or put back.

        Raises:
            UsageError: another one is there, or no place to write.
        """
        from filelock import FileLock, Timeout

        for folder in (self.out, self.work):
            make_folder(folder)
        try:
            with FileLock(self.out / ".lock", timeout=0):
                for path in self.work.glob("*.part"):
                    number = re.search(r"(\d+)\.part$", path.name)
                    if number and not is_alive(int(number[1])):
                        path.unlink(missing_ok=True)
                for name in self.table:
                    for folder in (self.out, self.stock):
                        settle(folder / name)
                yield
        except Timeout:
            raise UsageError(
                f"another stock run writes in {self.out}; wait for its end, or choose another --out"
            ) from None

    def place(self, name: str) -> Path | None:
        """Where an artifact is, whole and with the settings of the table: in OUT, else in the stock; None if nowhere.

        One that is not in the table, a baseline, may also be bundled.
        """
        item = self.table.get(name)
        stocks = (self.stock, *(() if item else (BUNDLED,)))
        for folder in (self.out / name, *(stock / name for stock in stocks if not (item and self.replace))):
            if not (folder / MANIFEST).exists() or not has_data(folder):
                continue
            try:
                if not item or item.is_made(read_manifest(folder)):
                    return folder
            except ArtifactError as error:  # one that is damaged is made anew, and ends nothing but its own item
                log.error("%s is taken for missing: %s", name, first_line(error))
        return None

    def entry(self, name: str) -> Entry | None:
        """The manifest and the results of an artifact; None if it is not made."""
        folder = self.place(name)
        return read(folder) if folder else None

    def share(self, name: str) -> None:
        """Let an artifact in OUT have the results that are recorded of the same data in the stock."""
        mine, stocked = self.out / name, self.stock / name
        if self.place(name) == mine and (stocked / MANIFEST).exists():
            shelf.share_results(stocked, mine)

    def put(self, name: str) -> shelf.Verdict:
        """Put an artifact into the stock if it belongs there."""
        folder = self.out / name
        if self.place(name) != folder:
            return shelf.Verdict(False, True, "stocked, with these settings and results")
        return shelf.put(folder, self.stock, replace=self.replace)

    def is_done(self, step: Step) -> bool:
        """Whether a step's artifact is there, or its student's result recorded.

        As long as the test images were not read in this process, results on another copy of them count too.
        """
        if step.student is None:
            return self.entry(step.of) is not None
        own, entry = self.entry(step.item.name), self.entry(step.of)
        if own is None or entry is None:
            return False
        m = entry.manifest
        test = self._tests.get((m.dataset, m.image_size[1]))
        known = entry.recorded(_plan(own, step.student).digest, step.student.model, test.fingerprint if test else "")
        return step.seed in known and known[step.seed].test_name == m.dataset

    def do(self, step: Step) -> None:
        """Do a step. Raises DDHubError."""
        if step.student is None:
            self._make(step.item)
        else:
            self._train(step, step.student)

    def seconds(self, step: Step) -> float | None:
        """Seconds that a step that is done took, if that was on this device."""
        own, entry = self.entry(step.item.name), self.entry(step.of)
        if own is None or entry is None:
            return None
        if step.student is None:
            run = entry.manifest.recipe["run"]
            return float(run["seconds"]) if run["device"] == describe(self.device) else None
        result = entry.recorded(_plan(own, step.student).digest, step.student.model).get(step.seed)
        return result.seconds if result and result.device == describe(self.device) else None

    def _make(self, item: Item) -> None:
        """Make an artifact."""
        run = Run(
            item.recipe,
            item.cfg,
            self.out / item.name,
            preset=item.preset,
            root=self.root,
            device=str(self.device),
            precision=self.precision,
            work=self.work,
            **item.storage,
        )
        with run.logged():
            item.recipe.distill(item.cfg, run)
        self.share(item.name)

    def _train(self, step: Step, student: Student) -> None:
        """Train a student and record its result."""
        own, folder = self.entry(step.item.name), self.place(step.of)
        assert own and folder, "what is trained on was made before, or is in the stock"
        if folder.parent != self.out:
            folder = shelf.copy(folder, self.out)
        m, plan = read_manifest(folder), _plan(own, student)
        if m.image_size != own.manifest.image_size:
            sizes = [" x ".join(map(str, x.image_size)) for x in (m, own.manifest)]
            raise UsageError(
                f"{step.of} has images of {sizes[0]}, {step.item.name} of {sizes[1]}; give it another baseline"
            )
        test = self._test(m.dataset, m.image_size[1])
        words = (m.content, plan.digest, student.model, test.fingerprint, str(step.seed))
        key = hashlib.sha256(" ".join(words).encode()).hexdigest()[:12]
        _, result = train(
            self._load(folder, m.digest),
            student.model,
            protocol=plan,
            seed=step.seed,
            test=test,
            device=self.device,
            precision=self.precision,
            checkpoint=self.work / f"student-{student.model.replace(':', '-')}-{key}.checkpoint",
            progress=False,
        )
        Artifact.open(folder, verify=False).add_result(asdict(result))
        log.info("%s: %.2f %% (%s, %.1f s)", step.title, result.accuracy, plan.name, result.seconds)

    def _test(self, dataset: str, size: int) -> Source:
        if (dataset, size) not in self._tests:
            self._tests[dataset, size] = open_source(dataset, "test", root=self.root, size=size)
        return self._tests[dataset, size]

    def _opened(self, folder: Path, digest: str) -> DistilledData:
        """An artifact as training batches; the digest is here so that another one in this folder is read anew."""
        return hub.load(folder, device=self.device)


def _plan(own: Entry, student: Student) -> Protocol:
    """The protocol of a student of an artifact, or of its baseline."""
    return student.plan(Protocol.from_json(own.manifest.protocol))
