"""The metadata of a card: the YAML block that the Hub, its viewer and `datasets` read at the top of README.md.

    dataset(entry)                      # '---\nlicense: "mit"\n...\n---'

Everything comes from the manifest: the configs name their files, so that no other file is ever taken for data, and
`dataset_info` repeats the features of the parquet files and the number of their rows, which `datasets` checks. It does
not check `num_bytes`: that is the size of the parquet file for `default`, for CIFAR images 1 % more than what
`datasets` counts, and of the stored tensor for `compensators`.

The fields are those of `huggingface_hub`'s DatasetCardData and ModelCardData. PyYAML writes them, every text but
the keys in double quotes and in ASCII: their own `to_yaml` writes the class name `1e5` without quotes, which YAML 1.2
reads as a number, and characters that turn the direction of a line as they are.
"""

from __future__ import annotations

import re
from typing import Any

import yaml
from huggingface_hub import CardData, DatasetCardData

from ddhub.artifact.manifest import PARQUET, Manifest
from ddhub.artifact.results import Entry
from ddhub.sources.known import KNOWN

COMPENSATED = "decoder.compensators"
_LICENSES = ("apache-2.0", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-sa-4.0", "cc0-1.0", "mit", "unknown")
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))


def dataset(entry: Entry) -> str:
    """The block of an artifact, with the lines of dashes around it."""
    m = entry.manifest
    count = m.tensors["images"]["shape"][0]
    title = KNOWN[m.dataset].title if m.dataset in KNOWN else m.dataset
    names = {str(number): name for number, name in enumerate(m.classes)}
    label = {"name": "label", "dtype": {"class_label": {"names": names}}}
    configs = [_config("default", default=True, data_files="data/train-*.parquet")]
    rows = count // m.encoding.get("sheet", 1)  # of the file: a picture may hold many images
    infos = [_info("default", [_IMAGE, label], m.files.get(PARQUET, {}).get("bytes", 0), rows)]
    if shape := compensated(m):
        configs.append(_config("compensators", data_files="compensators/train-*.parquet"))
        infos.append(_info("compensators", COLUMNS, m.bytes_by_tensor()[COMPENSATED], shape[0] * shape[1]))
    return block(
        DatasetCardData(
            license=license_of(m.license),
            pretty_name=f"{title} distilled by {m.method}, {m.ipc} images per class",
            task_categories=["image-classification"],
            size_categories=[next((name for size, name in _SIZES if count < size), "n>1M")],
            source_datasets=[f"extended|{m.source['hub_id']}" if m.source["hub_id"] else "original"],
            annotations_creators=["found" if m.labels["kind"] == "hard" else "machine-generated"],
            tags=["dataset-distillation", "ddhub", m.method, f"ipc{m.ipc}"],
            configs=configs,
            dataset_info=infos,
        )
    )


def compensated(m: Manifest) -> list[int]:
    """The shape [nets, sets, C, H, W] of the compensators of an artifact that has some, else []."""
    shape: list[int] = m.tensors.get(COMPENSATED, {}).get("shape", [])
    return shape if m.decoder["kind"] == "compensate" and len(shape) == 5 else []


_IMAGE = {"name": "image", "dtype": "image"}
COLUMNS = [
    _IMAGE,
    {"name": "net", "dtype": "int64"},
    {"name": "set", "dtype": "int64"},
    {"name": "scale", "dtype": "float32"},
]


def license_of(text: str) -> str:
    """A manifest's license as the Hub's identifier: only where the text is one, and perhaps a remark in brackets."""
    match = re.fullmatch(r"([\w.-]+)(?: \([^)]*\))?", text)
    name = match[1].lower() if match else ""
    return name if name in _LICENSES else "other"


class _Quoting(yaml.SafeDumper):  # type: ignore[misc]
    """YAML in which texts are in double quotes but for the keys, and nothing refers to what was written before."""

    def ignore_aliases(self, data: object) -> bool:
        return True

    def represent_mapping(self, *args: Any, **kwargs: Any) -> yaml.MappingNode:
        node = super().represent_mapping(*args, **kwargs)
        for key, _ in node.value:
            key.style = None  # in quotes only where it has to be
        return node


_Quoting.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


def block(data: CardData) -> str:
    """The YAML of a card's fields, between lines of dashes."""
    fields = data.to_dict()  # type: ignore[no-untyped-call]
    return f"---\n{yaml.dump(fields, Dumper=_Quoting, sort_keys=False)}---"


def _config(name: str, *, data_files: str, default: bool = False) -> dict[str, Any]:
    files = [{"split": "train", "path": data_files}]
    return {"config_name": name, **({"default": True} if default else {}), "data_files": files}


def _info(name: str, features: list[dict[str, Any]], size: int, rows: int) -> dict[str, Any]:
    splits = [{"name": "train", "num_bytes": size, "num_examples": rows}]
    return {"config_name": name, "features": features, "splits": splits}
