"""The student recipes of the papers as frozen Protocols, by name: the rows of `assets/protocols.toml`.

protocol("infer-static")                 # as the paper has it
protocol("infer-static", epochs=50)      # called infer-static+epochs=50, with a digest of its own
"""

from __future__ import annotations

import tomllib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ddhub.errors import unknown
from ddhub.io.rules import whole_within
from ddhub.protocols.protocol import MOST_EPOCHS, Protocol

_FILE = Path(__file__).parents[1] / "assets" / "protocols.toml"


def _read(text: str) -> dict[str, Protocol]:
    """The protocols of a table's rows, each built on the row above that it is `like`, if any."""
    table: dict[str, Protocol] = {}
    for name, row in tomllib.loads(text).items():
        base = table[row.pop("like")] if "like" in row else Protocol()
        augment = replace(base.augment, **row.pop("augment", {}))
        settings: dict[str, Any] = {key: tuple(x) if isinstance(x, list) else x for key, x in row.items()}
        table[name] = replace(base, **settings, augment=augment, name=name)
    return table


PROTOCOLS = _read(_FILE.read_text())


def protocol(name: str, **changes: Any) -> Protocol:
    """A protocol by name, with other fields where `changes` give them (see `changed`).

    Raises:
        UsageError: an unknown name or field, or a value out of its bounds.
    """
    if not isinstance(name, str) or name not in PROTOCOLS:
        raise unknown("protocol", name, PROTOCOLS, "ddhub train --help")
    return changed(PROTOCOLS[name], **changes)


def changed(base: Protocol, **changes: Any) -> Protocol:
    """A protocol with other fields, called `NAME+field=value` of those that differ.

    With other epochs the milestones stay at their share of the whole, unless they are given too. What is NAME with
    other epochs already changes as NAME itself does, so that `protocol(NAME, ...)` gives the same.

    Raises:
        UsageError: as of `protocol`.
    """
    settings = [item.name for item in fields(Protocol)]
    if strange := sorted(changes.keys() - set(settings)):
        raise unknown("setting of a protocol", strange[0], settings)
    if "epochs" in changes:
        whole_within("epochs", changes["epochs"], 1, MOST_EPOCHS)
    name = base.name.partition("+")[0]
    if "+" in base.name and name in PROTOCOLS and protocol(name, epochs=base.epochs) == base:
        base, changes = PROTOCOLS[name], {"epochs": base.epochs, **changes}
    words = {key: _word(x) for key, x in changes.items() if getattr(base, key) != x}
    if "epochs" in words and "milestones" not in changes:
        changes["milestones"] = tuple(max(1, m * changes["epochs"] // base.epochs) for m in base.milestones)
    name = "+".join([base.name, *(f"{key}={word}" for key, word in words.items())])
    return replace(base, **changes, name=name) if words else base


def _word(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def protocols() -> tuple[str, ...]:
    """The names that `protocol` knows."""
    return tuple(PROTOCOLS)
