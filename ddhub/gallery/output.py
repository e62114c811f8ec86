"""The folder of a site: files that are written where they differ, and removed where they are no longer part of it.

    out = Output(Path("site"))
    out.put("index.html", "<!doctype html>…")
    out.finish({"pictures": facts})             # removes what the last run wrote and this one did not

`site.json` lists what a run wrote, so that nothing else in the folder is ever touched.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

from ddhub.errors import DDHubError, UsageError
from ddhub.io.files import replace_file

LIST = "site.json"


class Output:
    """A site that is being written.

    Attributes:
        known: what the last run left with `finish`.
        written: paths of the files whose bytes changed in this run.

    Raises:
        UsageError: a folder that holds other things than a site.
        DDHubError: a file that cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.files, self.written = folder, set[str](), list[str]()
        if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / LIST).is_file())):
            raise UsageError(f"{folder}: there is something that is no gallery; choose another folder")
        self.known = self._last()
        if not (folder / LIST).exists():
            self.put(LIST, "{}\n")  # so that a run that is cut can go on
            self.written.clear()
        self._before = {name for name in self.known.get("files", []) if _is_inside(name)}

    def put(self, name: str, data: str | bytes) -> None:
        """A file of the site, by its path from the start; written only where it differs."""
        data = data.encode() if isinstance(data, str) else data
        self.files.add(name)
        path = self.folder / name
        try:
            if path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data:
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, data)
        except OSError as error:
            raise DDHubError(
                f"{path}: cannot be written ({error.strerror}); free space or choose another folder"
            ) from None
        self.written.append(name)

    def keep(self, name: str) -> bool:
        """Count a file of the last run as part of this one too; False where it is not there."""
        there = name in self._before and (self.folder / name).is_file()
        if there:
            self.files.add(name)
        return there

    def finish(self, facts: dict[str, Any]) -> list[str]:
        """Remove what is no longer part of the site, write the list, and return what was removed."""
        self.files.add(LIST)
        gone = sorted(name for name in self._before - self.files if not (self.folder / name).is_dir())
        for name in gone:
            (self.folder / name).unlink(missing_ok=True)
        for folder in sorted({(self.folder / name).parent for name in gone} - {self.folder}, reverse=True):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        listed = sorted(self.files)
        self.put(LIST, json.dumps({"format": 1, **facts, "files": listed}, indent=1, sort_keys=True) + "\n")
        return gone

    def _last(self) -> dict[str, Any]:
        """What the last run left; {} where there was none, or where the list cannot be read: all is then made anew."""
        try:
            last = json.loads((self.folder / LIST).read_text())
            sound = all(isinstance(name, str) for name in last["files"]) and last["format"] == 1
            return last if sound and isinstance(last.get("pictures", {}), dict) else {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and not {*"\\\0"} & {*name}
