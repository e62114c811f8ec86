"""Errors a user can act on: one line that names the thing, the cause and the next step.

The command line prints them as they are and exits with 2 for `UsageError` (ask for something else) and 1 for the
rest (something is wrong with a file, a data set or a run).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DDHubError(Exception):
    """Base of every error that ddhub raises on purpose."""


class UsageError(DDHubError):
    """What was asked for cannot be: an unknown name, an impossible setting."""


class ArtifactError(DDHubError):
    """A folder that is not a sound artifact, or one that this version cannot read."""


class SourceError(DDHubError):
    """Real data that is missing, incomplete or not what its name says."""


class TrainingError(DDHubError):
    """A run that cannot go on, such as one whose loss is not a number."""


class HubError(DDHubError):
    """The Hub, which cannot be reached or refuses what it is asked."""


def unknown(kind: str, name: str, known: Iterable[str], hint: str = "") -> UsageError:
    """The error for a name that nobody knows, with the nearest known one.

    >>> print(unknown("model", "resnet81", ["resnet18"], "ddhub train --help"))
    unknown model 'resnet81'; did you mean 'resnet18'? (ddhub train --help)
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    advice = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names) or 'none'}"
    return UsageError(f"unknown {kind} {name!r}; {advice}" + (f" ({hint})" if hint else ""))


def first_line(error: BaseException) -> str:
    """The first line of an error's text, 300 characters of it at most, or its kind when it has none."""
    return next(iter(str(error).splitlines()), "")[:300] or type(error).__name__
