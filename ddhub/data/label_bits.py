"""Labels in 8 or 4 bits a number, in place of the 16 of a float: packed for the file, unpacked when they are loaded.

    kind     stored                                               number
    soft     labels.logits u8 [.., C], labels.scale f16 [..]      logits = code · scale, a scale a row
    dbr      labels.distances u8 [E, N, 2]                        distance = code · 20 nats / (2^bits - 1)
    top1     labels.probability u8 [E, N]                         probability = code / (2^bits - 1)

Of a row of logits the least has code 0: what all logits have in common changes neither a softmax nor a mean of labels.
With 4 bits the numbers of a last dimension share bytes by two, the first in the lower half; it is filled up with 0.

    spec, tensors = pack({"kind": "soft", "temperature": 4.0}, {"labels.logits": logits}, 4)
    spec, tensors = unpack(spec, tensors, classes=10)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ddhub.errors import ArtifactError, UsageError

BITS = (16, 8, 4)
_NAMES = {"soft": "labels.logits", "dbr": "labels.distances", "top1": "labels.probability"}
_TOP = {"dbr": 20.0, "top1": 1.0}  # the largest number
_SCALE = "labels.scale"


def pack(spec: Mapping[str, Any], tensors: Mapping[str, Tensor], bits: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A manifest's `labels` and tensors with labels of so many bits; as they are for 16, or where no floats are stored.

    Raises:
        UsageError: another number of bits.
    """
    if bits not in BITS:
        raise UsageError(f"label bits are {bits}; they must be 16, 8 or 4")
    name, changed = _NAMES.get(spec["kind"], ""), dict(tensors)
    if bits == 16 or name not in tensors:
        return dict(spec), changed
    values, top = tensors[name].float(), 2**bits - 1
    if spec["kind"] == "soft":
        low, high = values.amin(-1, keepdim=True), values.amax(-1, keepdim=True)
        scale = ((high - low) / top).half()
        changed[_SCALE] = scale.squeeze(-1)
        codes = (values - low) / torch.where(scale > 0, scale, 1).float()
    else:
        codes = values * (top / _TOP[spec["kind"]])
    codes = codes.round().clamp(0, top).to(torch.uint8)
    changed[name] = _halves(codes) if bits == 4 else codes
    return {**spec, "bits": bits}, changed


def unpack(
    spec: Mapping[str, Any], tensors: Mapping[str, Tensor], classes: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `pack` was given, its numbers as f16.

    Args:
        spec: the manifest's `labels`.
        tensors: the artifact's.
        classes: their number, which is the length of a row of logits.

    Raises:
        ArtifactError: another number of bits, or tensors that are missing or do not fit.
    """
    rest = {key: value for key, value in spec.items() if key != "bits"}
    if "bits" not in spec:
        return rest, dict(tensors)
    kind, bits = spec["kind"], spec["bits"]
    name = _NAMES.get(kind, "")
    codes, scale = tensors.get(name), tensors.get(_SCALE)
    if type(bits) is not int or bits not in BITS[1:] or codes is None or codes.dtype != torch.uint8 or codes.ndim < 2:
        raise ArtifactError(f"labels {kind!r}: {bits!r} bits, or tensor {name} not of bytes; regenerate the artifact")
    named = tensors.get("labels.top1", codes)  # beside the probabilities, one an item
    length = {"soft": classes, "dbr": 2, "top1": named.shape[-1]}[kind]
    if bits == 4 and (codes.shape[-1] != -(-length // 2) or (length % 2 and bool((codes[..., -1] > 15).any()))):
        raise ArtifactError(
            f"labels {kind!r}: tensor {name} is not filled by numbers of 4 bits; regenerate the artifact"
        )
    codes = torch.stack([codes & 15, codes >> 4], -1).flatten(-2)[..., :length] if bits == 4 else codes
    changed, top = dict(tensors), 2**bits - 1
    if kind == "soft":
        if scale is None or scale.dtype != torch.float16 or scale.shape != codes.shape[:-1] or bool((scale < 0).any()):
            raise ArtifactError(f"labels {kind!r}: tensor {_SCALE} does not fit the logits; regenerate the artifact")
        changed.pop(_SCALE)
        changed[name] = (codes.float() * scale.float()[..., None]).half()
    else:
        changed[name] = (codes.float() * (_TOP[kind] / top)).half()
    return rest, changed


def _halves(codes: Tensor) -> Tensor:
    """Codes of 4 bits, two a byte along the last dimension."""
    if codes.shape[-1] % 2:
        codes = torch.cat([codes, codes.new_zeros(*codes.shape[:-1], 1)], -1)
    return codes[..., ::2] | codes[..., 1::2] << 4
