"""Rows of a study that takes hours: each is kept when it is there, and the same command goes on behind them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ddhub.artifact.manifest import canonical
from ddhub.cli.printing import say


class Rows:
    """Rows that were finished before, by all that they depend on; each is added to a file of JSON lines."""

    def __init__(self, path: Path) -> None:
        self.path, self.known = path, dict[str, dict[str, Any]]()
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                record = json.loads(line)
            except ValueError:  # the last line of a program that was killed
                continue
            self.known[canonical(record["key"])] = record["row"]

    def row(self, work: Callable[[], dict[str, Any]], **key: Any) -> dict[str, Any]:
        """What `work` returns, or did for this key."""
        name = canonical(key)
        if name not in self.known:
            self.known[name] = work()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(json.dumps({"key": key, "row": self.known[name]}) + "\n")
            told = [
                f"{word} {value}" for word, value in key.items() if len(str(value)) <= 40
            ]  # no settings, no digests
            say(f"{', '.join(told)}: {self.known[name]}", err=True)
        return self.known[name]
