"""Fixtures of the tests on a CUDA device, and a table of how far results were apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from gpu import Said

from ddhub.training.capture import Captured


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """The name of the step of every recording that is made; none may fail."""
    names: list[str] = []
    record = Captured._record

    def noted(self: Captured[object], work: Callable[..., object], tensors: tuple[object, ...]) -> object:
        recording = record(self, work, tensors)  # type: ignore[arg-type]
        names.append(self.name)
        return recording

    monkeypatch.setattr(Captured, "_record", noted)
    yield names
    assert [line for line in caplog.messages if "cannot be captured" in line] == []


@pytest.fixture
def within(record_property: Callable[[str, object], None], request: pytest.FixtureRequest) -> Said:
    """Compare a distance with its bound; the table at the end says both."""

    def compare(what: str, distance: float, bound: float) -> None:
        record_property("apart", (f"{request.node.name}: {what}", f"{distance:.1e}, at most {bound:.0e}"))
        assert distance <= bound, f"{what}: {distance:.3e} apart, at most {bound:.0e}"

    return compare


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [x for kind in ("passed", "failed") for x in terminalreporter.stats.get(kind, []) if x.when == "call"]
    rows = [value for report in reports for key, value in report.user_properties if key == "apart"]
    if rows:
        terminalreporter.section("distances, and their bounds")
    for what, distance in rows:
        terminalreporter.write_line(f"{what:80} {distance}")
