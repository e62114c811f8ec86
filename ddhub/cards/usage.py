"""How to read an artifact: with ddhub, and in ten lines without it, of mosaics a few more.

Both name the repository, so that a card says the right thing wherever its artifact was published. `namespace` finds the
name again in a card's text: it is the one thing on a card that neither the manifest nor the results know.
"""

from __future__ import annotations

import re

from ddhub.artifact.encoding import grid
from ddhub.artifact.manifest import Manifest
from ddhub.cards.label_text import per_view
from ddhub.cards.markdown import code, text
from ddhub.cards.metadata import compensated

NAMESPACE = "ddhub"


def namespace(card: str) -> str:
    """The namespace that a card names; `ddhub` where it names none."""
    match = re.search(r'load_dataset\("([\w.-]+)/', card)
    return match[1] if match else NAMESPACE


def loading(m: Manifest, owner: str) -> str:
    """The code that loads an artifact of the repository OWNER/NAME and trains a student."""
    name = m.name if owner == NAMESPACE else f"{owner}/{m.name}"
    test = ', test="folder:PATH"' if m.dataset.startswith("folder:") else ""  # of images that only their owner has
    return code(
        "python",
        [
            "import ddhub",
            f'data = ddhub.load("{name}")',
            f'model, result = ddhub.train(data, "convnet3", seed=0{test})',
        ],
    )


def without(m: Manifest, owner: str) -> list[str]:
    """The code that rebuilds the training images with `datasets` and numpy alone, and what they are."""
    repo, (channels, height, width) = f"{owner}/{m.name}", m.image_size
    nets, sets = (compensated(m) or [0, 0])[:2]
    factor, regions = mosaic(m)
    soft, ranged = _is_static(m), any(tuple(pair) != (0, 1) for pair in m.pixel_range)
    stored = nets or soft or regions
    lines = ["import numpy as np", "from datasets import load_dataset"]
    if stored:
        lines += ["from huggingface_hub import hf_hub_download", "from safetensors.numpy import load_file"]
    lines += ["", f'rows = load_dataset("{repo}", split="train")']
    if stored:
        lines.append(f'tensors = load_file(hf_hub_download("{repo}", "tensors.safetensors", repo_type="dataset"))')
    shape = f"-1, 1, {sets}, {height}, {width}, {channels}" if nets else f"-1, {height}, {width}, {channels}"
    sheet = m.encoding.get("sheet", 1)
    labels = 'np.array(rows["label"])'
    pixels = 'images = np.stack([np.asarray(x, np.float32) / 255 for x in rows["image"]])'
    if m.encoding["codec"] != "png" or sheet > 1:
        grey = ".convert('RGB')" + (", np.float32)[..., 1:2]" if channels == 1 else ", np.float32)")
        pixels = f'images = np.stack([np.asarray(x{grey} / 255 for x in rows["image"]])'
    lines.append(pixels + (f".reshape({shape})" if sheet == 1 else ""))
    if sheet > 1:
        high, wide = grid(sheet)
        cells = f"-1, {high}, {height}, {wide}, {width}, {channels}"
        lines.append(
            f"images = images.reshape({cells}).swapaxes(2, 3).reshape(-1, {high * wide}, {height}, {width}, {channels})"
        )
        lines.append(f"images = images[:, :{sheet}].reshape({shape})")
        labels = f'np.repeat(rows["label"], {sheet})'
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
    if factor:
        lines += _crop_lines(height, factor, regions)
        labels = f"np.tile({labels}, {factor**2 + regions})"
    lines += _logit_lines(m) if soft else [f"labels = {labels}"]
    count = m.tensors["images"]["shape"][0] * (factor**2 + regions if factor else nets + 1)
    return [code("python", lines), _explanation(m, owner, f"{count:,} x {height} x {width} x {channels}")]


def _logit_lines(m: Manifest) -> list[str]:
    """The lines that make `labels` of stored logits, which may have 8 or 4 bits (`ddhub.data.label_bits`)."""
    lines, bits = ['labels = tensors["labels.logits"]'], m.labels.get("bits")
    if bits == 4:
        lines.append(f"labels = np.stack([labels & 15, labels >> 4], 2).reshape(len(labels), -1)[:, :{len(m.classes)}]")
    return lines + (['labels = labels * tensors["labels.scale"][:, None]'] if bits else [])


def decoder(m: Manifest) -> str:
    """What an artifact's images become, in words."""
    factor, regions = mosaic(m)
    if not factor:
        return text(m.decoder["kind"])
    side, count = m.decoder["side"], m.tensors["images"]["shape"][0] * (factor**2 + regions)
    return (
        f"crops ({factor**2} tiles and {regions} regions of {side} x {side} px of every stored image, enlarged: "
        f"{count:,} training images)"
    )


def mosaic(m: Manifest) -> tuple[int, int]:
    """Factor and regions an image of an artifact of mosaics (decoder `crops`), else zeros."""
    factor, (_, height, width) = m.decoder.get("factor"), m.image_size
    if m.decoder["kind"] != "crops" or type(factor) is not int or not 1 < factor <= height == width:
        return 0, 0
    if m.decoder.get("side") != -(-height // factor):
        return 0, 0
    boxes = m.tensors.get("decoder.boxes", {}).get("shape", [])
    return factor, boxes[1] if len(boxes) == 3 else 0


def _crop_lines(height: int, factor: int, regions: int) -> list[str]:
    """The lines that cut squares out of images and enlarge them, as `ddhub.data.decode.crops` does."""
    side = -(-height // factor)
    pad, along = factor * side - height, f"range(0, {height}, {side})"
    return [
        *([f"images = np.pad(images, ((0, 0), (0, {pad}), (0, {pad}), (0, 0)), constant_values=0.5)"] if pad else []),
        f"corners = [[(y, x)] * len(images) for y in {along} for x in {along}]",
        *(['corners += tensors["decoder.boxes"].astype(int).transpose(1, 0, 2).tolist()'] if regions else []),
        f"squares = [x[i:i+{side}, j:j+{side}] for slot in corners for x, (i, j) in zip(images, slot)]",
        f"at = ((np.arange({height}) + 0.5) * {side} / {height} - 0.5).clip(0, {side - 1})[:, None]",
        f"weights = (1 - abs(at - np.arange({side}))).clip(0).astype(np.float32)",
        "images = np.stack([(weights @ x.T @ weights.T).T for x in squares])",
    ]


def _explanation(m: Manifest, owner: str, shape: str) -> str:
    mean, std = (", ".join(f"{x:g}" for x in values) for values in (m.mean, m.std))
    sentences = (
        f"`images` ({shape}) are what a student is trained on, in unit scale and before augmentation; it sees them "
        f"less the mean ({mean}), over the standard deviation ({std})."
    )
    if _is_static(m):
        sentences += f" `labels` are logits, to be read at temperature {text(m.labels.get('temperature'))}."
    if stored := per_view(m):
        sentences += (
            f" What a student learns from, {stored}, is in `tensors.safetensors`; which views is what ddhub draws."
        )
    if m.labels["kind"] == "teacher":
        names = ", ".join(f"`{text(owner)}/{text(x['name'])}`" for x in m.labels.get("teachers", []))
        sentences += (
            f" A student learns the mean logits of the teachers {names} (model repositories) on each mixed batch."
        )
    if mosaic(m)[0]:
        sentences += " They equal ddhub's but for the rounding of 32-bit floats."
    if compensated(m):
        sentences += " The config `compensators` shows what is added to the images: (byte - 128) · scale."
    return sentences


def _is_static(m: Manifest) -> bool:
    """Whether one vector of logits is stored for every image."""
    return m.labels["kind"] == "soft" and not per_view(m)
