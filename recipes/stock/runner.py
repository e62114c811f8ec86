"""A stock run: what is left is done in the order of the table, and what is better becomes part of the stock."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence

import torch

from ddhub.errors import ArtifactError, DDHubError, first_line
from recipes.run.plan import Line, total
from recipes.stock import shelf
from recipes.stock.steps import SHARED, Costs, Key, Step, data_of, key, steps
from recipes.stock.table import Item
from recipes.stock.workshop import Workshop

log = logging.getLogger("recipes")


class StockRun:
    """The steps of some items of a table, and how far they are.

    Attributes:
        items: what is to be finished, by name.
        steps: by what they do, in order.
        done: those that are.
        failed, verdicts: of items that could not be finished why, and of the others what became of them.
    """

    def __init__(self, items: Sequence[Item], table: Mapping[str, Item], workshop: Workshop, costs: Costs) -> None:
        self.items, self.table = {item.name: item for item in items}, table
        self.workshop, self.costs = workshop, costs
        self.steps: dict[Key, Step] = {}
        for item in items:
            for step in steps(item, table):
                self.steps.setdefault(key(step), step)
        self.done = self._done()
        self.failed: dict[str, str] = {}
        self.verdicts: dict[str, str] = {}
        self._taken = self._planned = 0.0  # seconds on this device, and those of the plan for the same steps

    def go(self) -> None:
        """Do what is left. What cannot be done is logged, and the others go on."""
        for name in {step.of for step in self.steps.values()}:
            self.workshop.share(name)
        self.done = self._done()
        log.info("%d of %d steps are done", len(self.done), len(self.steps))
        self._render()  # a run that was killed may have left old cards
        for item in self.items.values():
            try:
                self._finish(item)
            except (DDHubError, torch.OutOfMemoryError) as error:
                self.failed[item.name] = first_line(error)
                log.error("%s failed: %s", item.name, self.failed[item.name])

    def left(self) -> tuple[int, str]:
        """How many steps are left, and how long they will take at the pace so far, in words."""
        rest = [x for what, x in self.steps.items() if what not in self.done and x.item.name not in self.failed]
        known = [seconds for step in rest if (seconds := self.costs.seconds(step)) is not None]
        pace = self._taken / self._planned if self._planned else 0.0
        if not rest or not known or not pace:
            return len(rest), "for how long is not known yet" if rest else "nothing is left"
        others = f" and {len(rest) - len(known)} steps on other data" if len(known) < len(rest) else ""
        return len(rest), f"about {pace * sum(known):,.0f} s{others} left"

    def rows(self) -> list[tuple[str, str, str]]:
        """A line for each item: its name, its steps done and in all, and what became of it."""
        lines = []
        for name, item in self.items.items():
            mine = [key(step) for step in steps(item, self.table)]
            state = self.verdicts.get(name, "")
            if name in self.failed:
                state = f"failed: {self.failed[name]}"
            lines.append((name, f"{sum(x in self.done for x in mine)} of {len(mine)}", state or "not finished"))
        return lines

    def plan(self) -> list[tuple[str, str, str, str, str]]:
        """What is left of each item: (artifact, stage, images, 10^12 operations, seconds), with sums.

        Teachers and experts of the same data that are as large are taken to be shared, and counted once.
        """
        rows: list[tuple[str, str, str, str, str]] = []
        sums: list[Line] = []
        seen: set[tuple[object, ...]] = set()
        for name in self.items:
            mine = {what: step for what, step in self.steps.items() if step.item.name == name}
            if count := len(self.done.intersection(mine)):
                rows.append((name, f"done: {count} of {len(mine)} steps", "", "", ""))
            lines: dict[tuple[str, str], list[Line]] = {}
            for what, step in mine.items():
                for line in self.costs.lines(step) if what not in self.done else ():
                    stage = re.sub(r"-\d+$", "", line.stage)  # of a stage in many parts
                    lines.setdefault((step.of, stage), []).append(line)
            own: list[Line] = []
            for (of, stage), parts in lines.items():
                line, times = total(parts), f"{len(parts)} x " if len(parts) > 1 else ""
                same = (*data_of(self.items[name]), stage, line.images, line.operations)
                shared = stage.startswith(SHARED) and same in seen
                seen.add(same)
                own += [] if shared else [line]
                rows.append((of, f"{times}{stage}{', shared' if shared else ''}", *_cells(line)))
            if own:
                sums.append(total(own))
                rows.append((name, "sum", *_cells(sums[-1])))
        return [*rows, ("all", "sum", *_cells(total(sums)))]

    def _done(self) -> set[Key]:
        return {what for what, step in self.steps.items() if self.workshop.is_done(step)}

    def _finish(self, item: Item) -> None:
        """Do what is left of an item, and put it and its baseline into the stock."""
        for step in steps(item, self.table):
            if not self.workshop.is_done(step):
                self.done.discard(key(step))
                log.info("done %d of %d, running %s; %s", len(self.done), len(self.steps), step.title, self.left()[1])
                self.workshop.do(step)
                self.costs.opened.add(data_of(step.item))
            self.done.add(key(step))
            taken, planned = self.workshop.seconds(step), self.costs.seconds(step)
            if taken is not None and planned:
                self._taken, self._planned = self._taken + taken, self._planned + planned
        changed = False
        for name in filter(None, (item.baseline, item.name)):
            verdict = self.workshop.put(name)
            self.verdicts[name] = verdict.words
            changed |= verdict.changed
            log.info("%s: %s", name, verdict.words)
        if changed:
            self._render()

    def _render(self) -> None:
        """Render the cards of the stock; where one of it is damaged they stay as they are, and the run goes on."""
        try:
            shelf.render(self.workshop.stock)
        except ArtifactError as error:
            log.error("cards and leaderboard stay as they are: %s", first_line(error))


def _cells(line: Line) -> tuple[str, str, str]:
    return f"{line.images:,}", f"{line.operations / 1e12:,.1f}", f"{line.seconds:,.0f}"
