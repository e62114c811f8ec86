"""Rewrite the stock of a checkout from the first draft of format 1 to the format of today, once.

    git worktree add OLD 6797771 && python tools/migrate_format.py OLD cards

Every artifact moves to cards/NAME, its one home: those whose data are kept with images, tensors, preview, manifest and
results, the others with manifest and results. What changes is told field by field; pixels, tensors and accuracies do
not: images and tensors are the same files byte for byte, and every result keeps its number.

    recipe.py          leaves the artifact; its sha256 stays, as that of its path among `recipe.modules`
    recipe.run.commit  becomes recipe.commit
    recipe.run.stages  get device, precision and versions of the run, each
    encoding, content  come in; content is empty where the data are not kept
    preview.png        is drawn anew
    results            get the fields of their protocol, and the artifact's new digest

Cards and the leaderboard are rendered afterwards, by `ddhub card`.
"""

from __future__ import annotations

import ast
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from ddhub.artifact import tensors as stored
from ddhub.artifact.consistency import content
from ddhub.artifact.images import preview_of
from ddhub.artifact.manifest import MANIFEST, PARQUET, PREVIEW, RESULTS, TENSORS, Manifest, canonical, check_seal, seal
from ddhub.artifact.origin import REPOSITORY
from ddhub.artifact.png import read as read_images
from ddhub.errors import UsageError
from ddhub.io.files import replace_file
from ddhub.protocols.named import changed, protocol, protocols
from ddhub.protocols.protocol import Protocol

INFER = "cifar10-infer-ipc10"
CONTROLS = {  # their data are not kept: the first four have the images of others
    *(f"{INFER}-{part}" for part in ("hard-labels", "no-compensators", "one-teacher", "teacher-labels")),
    "cifar10-sre2l-ipc10-static",
}


def old_manifest(record: dict[str, Any]) -> dict[str, Any]:
    """The fields of today for a manifest of the draft, without what is derived from data."""
    recipe = {**record["recipe"], "run": check_seal(record["recipe"]["run"], "recipe.run")}
    commit = recipe["run"].pop("commit", "")
    if "stages" in recipe["run"]:
        known = {key: recipe["run"][key] for key in ("device", "precision", "versions")}
        recipe["run"]["stages"] = {name: {"seconds": x, **known} for name, x in recipe["run"]["stages"].items()}
    modules = {recipe["path"]: record["files"]["recipe.py"]["sha256"]}
    recipe |= {"repository": REPOSITORY, "commit": commit, "modules": modules}
    files = {name: entry for name, entry in record["files"].items() if name != "recipe.py"}
    rest = {key: value for key, value in record.items() if key != "digest"}
    return {**rest, "recipe": recipe, "files": files, "encoding": {"codec": "png"}, "content": ""}


def settings(name: str, digest: str, epochs: int, recommended: Protocol) -> Protocol:
    """The protocol of a result: the artifact's, a named one, or one with the changes that its name states."""
    bases = [recommended, *map(protocol, protocols())]
    bases += [changed(x, epochs=epochs) for x in bases if x.warmup < epochs]
    base, *notes = name.split("+")
    if notes and base in protocols():
        stated = dict(note.split("=", 1) for note in notes)
        bases.append(protocol(base, **{key: _value(key, word) for key, word in stated.items()}))
    plan = next((x for x in bases if x.digest == digest), None)
    if plan is None:
        raise UsageError(f"no settings are known for the protocol {name!r} ({digest})")
    return replace(plan, name=name)


def _value(key: str, word: str) -> object:
    if isinstance(getattr(Protocol(), key), tuple):
        return tuple(_value("name", part) for part in word.split(","))
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError):
        return word


def migrate(folder: Path, target: Path, data: bool) -> str:
    """One artifact, from its old folder; returns what was written, in a line."""
    record = json.loads((folder / MANIFEST).read_text())
    fields = old_manifest(record)
    files: dict[str, bytes] = {}
    if data:
        names = [name for name in (PARQUET, TENSORS) if name in fields["files"]]
        files = {name: (folder / name).read_bytes() for name in names}
        size, classes = tuple(fields["image_size"]), len(fields["classes"])
        images, labels = read_images(files[PARQUET], fields["tensors"]["images"]["shape"][0], size, classes)
        want = {name: entry for name, entry in fields["tensors"].items() if name not in ("images", "image_labels")}
        tensors = stored.read(files[TENSORS], want) if want else {}
        draft = Manifest(**fields)
        files[PREVIEW] = preview_of(draft, images, labels, tensors)
        fields["content"] = content(draft, images, labels, tensors)
        fields["files"][PREVIEW] = {"sha256": hashlib.sha256(files[PREVIEW]).hexdigest(), "bytes": len(files[PREVIEW])}
    manifest = Manifest(**fields)
    recommended = Protocol.from_json(manifest.protocol)
    lines = []
    old = folder / RESULTS
    for line in old.read_text().splitlines() if old.exists() else []:
        result = check_seal(json.loads(line), str(old))
        plan = settings(result["protocol"], result["protocol_digest"], result["epochs"], recommended)
        result |= {"digest": manifest.digest, "settings": plan.to_json()}
        lines.append(canonical(seal(result)) + "\n")
    files[RESULTS] = "".join(lines).encode()
    files[MANIFEST] = manifest.render().encode()
    for name, content_of_file in files.items():
        if content_of_file:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            replace_file(target / name, content_of_file)
    return f"{manifest.name}: {record['digest'][:12]} -> {manifest.digest[:12]}, {len(lines)} results"


@click.command()
@click.argument("old", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("new", type=click.Path(file_okay=False, path_type=Path))
def main(old: Path, new: Path) -> None:
    """Write the stock of the checkout OLD, in the draft's format, into the folder NEW."""
    bundled = {path.parent.name: path.parent for path in (old / "ddhub" / "artifacts").glob(f"*/{MANIFEST}")}
    cards = {path.parent.name: path.parent for path in (old / "cards").glob(f"*/{MANIFEST}")}
    for name, folder in sorted({**cards, **bundled}.items()):
        click.echo(migrate(folder, new / name, data=name in bundled and name not in CONTROLS))
    for teacher in sorted((old / "ddhub" / "assets" / "teachers").iterdir()):
        shutil.copytree(teacher, new / teacher.name)
        click.echo(f"{teacher.name}: a teacher, as it is")


if __name__ == "__main__":
    main()
