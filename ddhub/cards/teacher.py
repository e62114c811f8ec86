"""The card of a published teacher: README.md of its model repository, rendered from its facts alone."""

from __future__ import annotations

from typing import Any

from huggingface_hub import ModelCardData

from ddhub.cards.markdown import code, table, text
from ddhub.cards.metadata import block, license_of


def render(record: dict[str, Any], namespace: str) -> str:
    """The card of a teacher (facts as `ddhub.teachers.read` gives them) for the repository NAMESPACE/NAME, Markdown."""
    name, source, test = record["name"], record["source"], record["test"]
    metadata = ModelCardData(
        license=license_of(record["license"]),
        pipeline_tag="image-classification",
        datasets=[source["hub_id"]] if source["hub_id"] else None,
        tags=["dataset-distillation", "ddhub", "teacher"],
    )
    load = ["from ddhub import teachers", f'net, facts = teachers.open_teacher("{name}@{record["digest"][:12]}")']
    read = [
        "from huggingface_hub import hf_hub_download",
        "from safetensors.torch import load_file",
        f'state = load_file(hf_hub_download("{namespace}/{name}", "weights.safetensors"))',
    ]
    shown: dict[str, object] = {
        "classes": ", ".join(record["classes"][:10]) + ", …" * (len(record["classes"]) > 10),
        "images": " x ".join(map(str, record["image_size"])),
        "mean": ", ".join(map(str, record["mean"])),
        "standard deviation": ", ".join(map(str, record["std"])),
        "accuracy": f"{record['accuracy']:.2f} % on {test['label']}, {test['images']:,} test images",
        "epochs": record["epochs"],
        "seed": record["seed"],
        "training images": f"{source['hub_id']}, split {source['split']}",
        "license": record["license"],
        "digest": record["digest"],
    }
    parts = [
        f"{block(metadata)}\n# {name}",
        f"A `{text(record['model'])}` trained on `{text(record['dataset'])}`: a teacher of distilled data sets.",
        code("python", load),
        "The weights without ddhub, by the names of the net's parameters:",
        code("python", read),
        table("fact|value", shown.items()),
    ]
    return "\n\n".join(parts) + "\n"
