"""Which recorded results are shown: the options of `ddhub compare`, applied to artifacts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddhub.errors import unknown

if TYPE_CHECKING:
    from ddhub.artifact.results import Entry, Mean


@dataclass(frozen=True)
class Choice:
    """Which results are compared, as the options say; None is every one."""

    protocol: str | None
    model: str | None
    test: str | None

    def tables(self, entries: Iterable[Entry]) -> list[list[Mean]]:
        """The means of each protocol and test set that the choice allows."""
        from ddhub.artifact import results
        from ddhub.protocols.named import protocol, protocols

        name, model, test = self.protocol, self.model, self.test
        tables = list(results.settings(entries).values())
        if name:
            digest = protocol(name).digest if name in protocols() else ""
            tables = [x for x in tables if {name, digest} & {x[0].first.protocol, x[0].first.protocol_digest}]
            if not tables and not digest:
                raise unknown("protocol", name, protocols(), "ddhub compare --help")
        if test:
            tables = [x for x in tables if x[0].first.test_name == test or x[0].first.test_fingerprint.startswith(test)]
        if model:
            tables = [[mean for mean in means if mean.first.model == model] for means in tables]
        return [means for means in tables if means]


def bundled_entries(dataset: str | None, ipc: int | None) -> list[Entry]:
    """The bundled artifacts of a data set and ipc; None is every one.

    Raises:
        UsageError: no bundled artifact is of that data set.
    """
    from ddhub.artifact.bundled import at_hand

    entries = list(at_hand().values())
    datasets = {x.manifest.dataset for x in entries}
    if dataset and dataset not in datasets:
        raise unknown("data set of a bundled artifact", dataset, datasets, "ddhub list")
    return [x for x in entries if dataset in (None, x.manifest.dataset) and ipc in (None, x.manifest.ipc)]
