"""The pretend GPU itself: it refuses what a GPU refuses, and notes what would be waited for."""

from __future__ import annotations

from pretend.asked import asked


def test_the_device_notes_every_wait_and_refuses_two_devices() -> None:
    found = asked("checks")
    assert len(found) > 30
    assert {case: one["found"] for case, one in found.items()} == {case: one["expected"] for case, one in found.items()}
    assert set(found["a place"]["places"]) == {"ddhub/training/devices.py placed"}
