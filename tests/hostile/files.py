"""Code where data should be, names and links that lead elsewhere, and sizes."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from test_artifact import forge, png, same

from ddhub.artifact.manifest import MANIFEST, PARQUET, PREVIEW, README, RESULTS, TENSORS
from tests.hostile._threats import LABELS, Make, enter, put, threat

PICKLE = pickle.dumps(print)  # unpickling it looks a function up by name, as a hostile one does with os.system


@threat("weights.pt", "not part of the artifact")
def a_pickle_beside_the_files(folder: Path) -> None:
    (folder / "weights.pt").write_bytes(PICKLE)


@threat(MANIFEST, "a file too many", "labels.npy")
def a_pickle_in_the_manifest(folder: Path) -> None:
    (folder / "labels.npy").write_bytes(PICKLE)
    entry = {"sha256": "0" * 64, "bytes": len(PICKLE)}
    forge(folder, lambda record: record["files"].update({"labels.npy": entry}))


enter("a pickle for tensors", TENSORS, ("a header of",), put(tensors=PICKLE))
enter("a pickle for images", PARQUET, ("no parquet file",), put(parquet=PICKLE + b"." * 20))


@threat(PARQUET, "or their types, are not ours")
def a_type_that_is_unpickled(folder: Path) -> None:
    metadata = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": PICKLE}
    fields = [pa.field("image", pa.binary()), pa.field("label", pa.int64(), metadata=metadata)]
    out = io.BytesIO()
    table = pa.table([[png()] * 6, LABELS], schema=pa.schema(fields))
    pq.write_table(table, out, compression="none", use_dictionary=False)
    forge(folder, same, parquet=out.getvalue())


# ---------------------------------------------------------------- names


def name_file(name: str) -> Make:
    entry = {"sha256": "0" * 64, "bytes": 1}
    return lambda folder: forge(folder, lambda record: record["files"].update({name: entry}))


for name in (
    *("../escape", "/etc/passwd", "data/../../x", "./x", "C:\\x", "..\\..\\x", "\\\\host\\share", "a//b", "a/", ""),
    *("nul\0byte", "x" * 200 + "é", "\u202egnp.x", "line\nbreak", "Caps", "~/x", "-rf"),
):
    rule = "'files' must be paths" if len(name) <= 200 else "a key of more than 200 characters"
    enter(f"a file named {name[:20]!r}", MANIFEST, (rule,), name_file(name))


# ---------------------------------------------------------------- links


def link(name: str) -> Make:
    """The same bytes, but outside the folder: what is read could be published."""

    def make(folder: Path) -> None:
        outside = folder.with_name(f"{folder.name}-outside")
        (folder / name).rename(outside)
        (folder / name).symlink_to(outside)

    return make


for name in (MANIFEST, PARQUET, TENSORS, PREVIEW, RESULTS, README, "data"):
    enter(f"a link for {name}", name, ("a link to a place outside",), link(name))


@threat(RESULTS, "a link to a place outside")
def a_link_to_nowhere(folder: Path) -> None:
    (folder / RESULTS).unlink()
    (folder / RESULTS).symlink_to("nowhere")


@threat(README, "a link to a place outside")
def a_link_to_a_device(folder: Path) -> None:
    (folder / README).unlink()
    (folder / README).symlink_to("/dev/zero")


@threat(RESULTS, "cannot be read (not a file)")
def a_pipe(folder: Path) -> None:
    (folder / RESULTS).unlink()
    os.mkfifo(folder / RESULTS)


# ---------------------------------------------------------------- sizes


def large(name: str, announced: bool = False) -> Make:
    """A file of 3 GiB that takes no place on the disk, and whether the manifest says so."""

    def make(folder: Path) -> None:
        os.truncate(folder / name, 3 * 2**30)
        if announced:
            forge(folder, lambda record: record["files"][name].update(bytes=3 * 2**30))

    return make


for name in (MANIFEST, RESULTS, README):
    enter(f"3 GiB of {name}", name, ("3,221,225,472 bytes, where 4,194,304 are allowed",), large(name))
for name in (PARQUET, TENSORS, PREVIEW):
    enter(f"3 GiB of {name}", name, ("3221225472 bytes, the manifest says",), large(name))
    enter(f"3 GiB of {name} announced", MANIFEST, ("DDHUB_MAX_BYTES allows 2,147,483,648",), large(name, True))


@threat(PREVIEW, "17,000,000 bytes, where 16,777,216 are allowed")
def a_preview_of_17_MB(folder: Path) -> None:
    (folder / PREVIEW).write_bytes(b"#" * 17_000_000)
    forge(folder, lambda record: record["files"][PREVIEW].update(bytes=17_000_000))


@threat("recipe.py", "not part of the artifact; move it away")
def a_file_of_code(folder: Path) -> None:
    (folder / "recipe.py").write_text("raise SystemExit")


@threat(MANIFEST, "the manifest lists a file too many, 'recipe.py'")
def a_file_of_code_that_is_listed(folder: Path) -> None:
    (folder / "recipe.py").write_text("raise SystemExit")
    forge(folder, lambda record: record["files"].update({"recipe.py": {"sha256": "0" * 64, "bytes": 16}}))


def claim(*shape: int) -> Make:
    """A manifest that says there are images of this shape."""

    def change(record: dict[str, Any]) -> None:
        record["tensors"]["images"]["shape"] = [*shape]
        record["tensors"]["image_labels"]["shape"] = [shape[0]]
        record["image_size"] = [*shape[1:]]

    return lambda folder: forge(folder, change)


enter("images of 1 TB", MANIFEST, ("DDHUB_MAX_BYTES",), claim(2**20, 3, 2**9, 2**9))
enter("images without end", MANIFEST, ("DDHUB_MAX_BYTES",), claim(2**62, 3, 2**62, 2**62))
enter("images of 1 GB in 2 kB", PARQUET, ("too small a file for images of 1,073,7",), claim(2**30 // 3072, 3, 32, 32))
