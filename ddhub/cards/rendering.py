"""Cards and leaderboard as files: which texts belong into which folders.

    for path, text in rendered(at_hand(), folders, leaderboard=BUNDLED): ...

Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from ddhub.artifact.manifest import README, seal_text
from ddhub.artifact.results import Entry
from ddhub.cards import card


def rendered(
    known: Mapping[Path, Entry], folders: Collection[Path], leaderboard: Path | None = None
) -> Iterator[tuple[Path, bytes]]:
    """The README.md of some folders, one after the other, as (path, content).

    Args:
        known: all artifacts at hand, where baselines and variants are looked for.
        folders: those of `known` whose cards are rendered.
        leaderboard: the folder of the leaderboard of all that is known, if it is rendered too.
    """
    entries = list(known.values())
    for folder, entry in known.items():
        if folder in folders:
            yield folder / README, seal_text(card.render(entry, entries)).encode()
    if leaderboard is not None:
        yield leaderboard / README, card.leaderboard(entries).encode()
