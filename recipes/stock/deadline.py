"""A time limit: the work in it is interrupted, as by Ctrl-C, shortly before so many minutes are over."""

from __future__ import annotations

import _thread
import signal
import threading
from types import TracebackType
from typing import Any

from ddhub.io.rules import within

RESERVE = (
    20.0  # seconds before the end, at most a tenth of the time: the start of Python and torch, and the last writes
)
_MOST = 60 * 24 * 365  # minutes: waits of many more are refused by the system
AGAIN = 5.0  # seconds until the next interrupt, should one be lost in a call that takes none


class Deadline:
    """`with Deadline(15) as deadline:` raises KeyboardInterrupt in the main thread in time; then `deadline.over`.

    Args:
        minutes: until the end; None is no limit.

    Raises:
        UsageError: no number of minutes, or more than a year.
    """

    def __init__(self, minutes: float | None) -> None:
        if minutes is not None:
            within("minutes", minutes, 0, _MOST, f"a number above 0, at most {_MOST:,}; leave it out for no limit")
        self.over = False
        self.seconds = None if minutes is None else 60 * minutes - min(RESERVE, 6 * minutes)
        self._left = threading.Event()
        self._thread: threading.Thread | None = None
        self._before: Any = None

    def __enter__(self) -> Deadline:
        if self.seconds is not None:
            # A shell starts what runs in the background with interrupts ignored.
            self._before = signal.signal(signal.SIGINT, signal.default_int_handler)
            self._thread = threading.Thread(target=self._watch, args=(self.seconds,), daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        if self._thread is not None:
            self._thread.join()  # from here on no interrupt comes
            signal.signal(signal.SIGINT, self._before)

    def _watch(self, seconds: float) -> None:
        while not self._left.wait(seconds):
            self.over = True
            _thread.interrupt_main()
            seconds = AGAIN
