"""Errors that a user can act on: one line that names the thing, the cause and the next step.

The command line prints the line as it is. Its exit status is 2 for `UsageError` (the request must change) and 1 for
the other classes (something is wrong with a file, a data set or a run).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DDHubError(Exception):
    """Base of every error that ddhub raises on purpose."""


class UsageError(DDHubError):
    """A request that cannot be met, such as an unknown name or an impossible setting."""


class ArtifactError(DDHubError):
    """An artifact that is damaged, inconsistent or written by a newer version of ddhub."""


class SourceError(DDHubError):
    """Real data that is missing, incomplete, damaged or other data than its name says."""


class TrainingError(DDHubError):
    """A training run that cannot continue, for example because its loss is not finite."""


class HubError(DDHubError):
    """The Hub cannot be reached or refuses a request."""


def shown(value: object, most: int = 80) -> str:
    """A value as a message repeats it: its repr, cut in the middle of what is long.

    >>> shown("x" * 5000, 16)
    "'xxxxxx…xxxxxxx'"
    """
    try:
        text = repr(value).replace("\n", " ")
    except ValueError:  # Python does not print integers of more than 4,300 digits
        text = f"a number of {type(value).__name__} with too many digits"
    return text if len(text) <= most else f"{text[: most // 2 - 1]}…{text[-(most // 2) :]}"


def unknown(kind: str, name: str, known: Iterable[str], hint: str = "") -> UsageError:
    """The error for an unknown name; its message offers the nearest known name.

    >>> print(unknown("model", "resnet81", ["resnet18"], "ddhub train --help"))
    unknown model 'resnet81'; did you mean 'resnet18'? (ddhub train --help)
    """
    names = sorted(known)
    near = difflib.get_close_matches(str(name)[:200], names, n=1, cutoff=0.6)
    advice = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names) or 'none'}"
    return UsageError(f"unknown {kind} {shown(name)}; {advice}" + (f" ({hint})" if hint else ""))


def first_line(error: BaseException) -> str:
    """The first line of an error's text, at most 300 characters; the error's type if the text is empty."""
    return next(iter(str(error).splitlines()), "")[:300] or type(error).__name__
