"""2,000 of the mutations of `tests/mutations.py`: loading refuses, or gives what it may give."""

from __future__ import annotations

import pytest

from ddhub.artifact import consistency
from ddhub.artifact.folder import Artifact
from ddhub.artifact.manifest import read_bytes
from tests import mutations


def test_a_mutated_artifact_is_refused_or_right() -> None:
    counts, failures = mutations.run(2000, 0)
    print(*counts.items(), sep="\n")
    assert not failures, "\n".join(failures)
    for kind in ("damage", "forge_manifest", "forge_bytes", "forge_header"):
        good = "equal" if kind == "damage" else "lawful"
        assert counts[f"{kind}: refused"] > 200 and counts[f"{kind}: {good}"] >= 5, counts


def test_what_goes_wrong_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that checks no hashes, and one with an error of another kind."""
    with monkeypatch.context() as patch:
        patch.setattr(Artifact, "_read", lambda self, name: read_bytes(self.folder / name))
        patch.setattr(consistency, "content", lambda manifest, *stored: manifest.content or "0" * 64)
        _, failures = mutations.run(600, 0)
        assert any("damage: NOT EQUAL" in line for line in failures), failures
    monkeypatch.setattr(consistency, "check", lambda *stored: {}["decoder"])
    with pytest.raises(KeyError):
        mutations.run(1, 0)
