"""How an artifact stores its images and its labels, in words and as numbers; nothing here imports torch."""

from __future__ import annotations

from ddhub.artifact.fields import DTYPE_BYTES
from ddhub.artifact.manifest import Manifest

# the numbers of which a label has many; what else is stored of labels are class numbers and scales
_NUMBERS = {"soft": "labels.logits", "dbr": "labels.distances", "top1": "labels.probability"}


def storage(m: Manifest) -> str:
    """'images as AVIF, quality 40, 4:4:4, one picture of 22 images a class; labels of 8 bits a number'."""
    bits = label_bits(m)
    return f"images as {encoding(m)}; labels {f'of {bits} bits a number' if bits else 'as class numbers'}"


def encoding(m: Manifest) -> str:
    """'AVIF, quality 40, 4:4:4, one picture of 22 images a class', or 'PNG, lossless, one picture an image'."""
    how, sheet = m.encoding, m.encoding.get("sheet", 1)
    words = [{"png": "PNG", "webp": "WebP", "avif": "AVIF"}[how["codec"]]]
    words += ["lossless"] if how["codec"] == "png" else [f"quality {how['quality']}", ":".join(how["chroma"])]
    if sheet == 1:
        return ", ".join([*words, "one picture an image"])
    per_class, rest = divmod(m.tensors["images"]["shape"][0], sheet * len(m.classes))
    if rest:
        return ", ".join([*words, f"pictures of {sheet} images"])
    pictures = "one picture" if per_class == 1 else f"{per_class} pictures"
    return ", ".join([*words, f"{pictures} of {sheet} images a class"])


def label_bits(m: Manifest) -> int | None:
    """Bits of a stored number of the labels; None where nothing but class numbers is stored, as with hard labels."""
    tensor = m.tensors.get(_NUMBERS.get(m.labels["kind"], ""))
    if tensor is None:
        return None
    # numbers of fewer bits lie in bytes, packed, and the labels say of how many (`ddhub.data.label_bits`)
    return m.labels["bits"] if m.labels.get("bits") in (4, 8) else 8 * DTYPE_BYTES[tensor["dtype"]]
