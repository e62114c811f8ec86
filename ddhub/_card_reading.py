"""How to read an artifact: with ddhub, and in ten lines without it.

Both name the repository, so that a card says the right thing wherever its artifact was published. `namespace` finds the
name again in a card's text: it is the one thing on a card that neither the manifest nor the results know.
"""

from __future__ import annotations

import re

from ddhub._card_labels import per_view
from ddhub._markdown import code, text
from ddhub._metadata import compensated
from ddhub.manifest import Manifest

NAMESPACE = "ddhub"


def namespace(card: str) -> str:
    """The namespace that a card names; `ddhub` where it names none."""
    match = re.search(r'load_dataset\("([\w.-]+)/', card)
    return match[1] if match else NAMESPACE


def loading(m: Manifest, owner: str) -> str:
    """The code that loads an artifact of the repository OWNER/NAME and trains a student."""
    name = m.name if owner == NAMESPACE else f"{owner}/{m.name}"
    return code(
        "python",
        [
            "import ddhub",
            f'data = ddhub.load("{name}")',
            'model, result = ddhub.train(data, "convnet3", seed=0)',
        ],
    )


def without(m: Manifest, owner: str) -> list[str]:
    """The code that rebuilds the training images with `datasets` and numpy alone, and what they are."""
    repo, (channels, height, width) = f"{owner}/{m.name}", m.image_size
    nets, sets = (compensated(m) or [0, 0])[:2]
    soft, ranged = _is_static(m), any(tuple(pair) != (0, 1) for pair in m.pixel_range)
    lines = ["import numpy as np", "from datasets import load_dataset"]
    if nets or soft:
        lines += ["from huggingface_hub import hf_hub_download", "from safetensors.numpy import load_file"]
    lines += ["", f'rows = load_dataset("{repo}", split="train")']
    if nets or soft:
        lines.append(f'tensors = load_file(hf_hub_download("{repo}", "tensors.safetensors", repo_type="dataset"))')
    shape = f"-1, 1, {sets}, {height}, {width}, {channels}" if nets else f"-1, {height}, {width}, {channels}"
    lines.append(f'images = np.stack([np.asarray(x, np.float32) / 255 for x in rows["image"]]).reshape({shape})')
    labels = 'np.array(rows["label"])'
    if nets:
        lines += [
            'change = tensors["decoder.compensators"] * tensors["decoder.scale"][..., None, None, None]',
            "images = np.concatenate([images, images + change.transpose(0, 1, 3, 4, 2)], 1)"
            f".clip(0, 1).reshape(-1, {height}, {width}, {channels})",
        ]
        labels += f".reshape(-1, 1, {sets}).repeat({nets + 1}, 1).ravel()"
    elif ranged:
        lows, highs = ([pair[side] for pair in m.pixel_range] for side in (0, 1))
        lines += [f"low, high = np.float32([{lows}, {highs}])", "images = images * (high - low) + low"]
    lines.append('labels = tensors["labels.logits"]' if soft else f"labels = {labels}")
    count = m.tensors["images"]["shape"][0] * (nets + 1)
    return [code("python", lines), _facts(m, owner, f"{count:,} x {height} x {width} x {channels}")]


def _facts(m: Manifest, owner: str, shape: str) -> str:
    mean, std = (", ".join(f"{x:g}" for x in values) for values in (m.mean, m.std))
    facts = (
        f"`images` ({shape}) are what a student is trained on, in unit scale and before augmentation; it sees them "
        f"less the mean ({mean}), over the standard deviation ({std})."
    )
    if _is_static(m):
        facts += f" `labels` are logits, to be read at temperature {text(m.labels.get('temperature'))}."
    if stored := per_view(m):
        facts += f" What a student learns from, {stored}, is in `tensors.safetensors`; which views is what ddhub draws."
    if m.labels["kind"] == "teacher":
        names = ", ".join(f"`{text(owner)}/{text(x['name'])}`" for x in m.labels.get("teachers", []))
        facts += f" A student learns the mean logits of the teachers {names} (model repositories) on each mixed batch."
    if compensated(m):
        facts += " The config `compensators` shows what is added to the images: (byte - 128) · scale."
    return facts


def _is_static(m: Manifest) -> bool:
    """Whether one vector of logits is stored for every image."""
    return m.labels["kind"] == "soft" and not per_view(m)
