"""Import torchvision even where its compiled extension does not load.

A torchvision wheel built for another torch (CUDA against CPU) fails at import with `operator torchvision::nms does
not exist`: its Python files register fake kernels for operators that the extension would have defined. Declaring the
two schemas first makes everything but the box operators work. With a matching wheel this module changes nothing.
For tests and benchmarks alone: ddhub itself needs no torchvision, and with timm it needs a wheel that matches.

    from tools.torchvision_stub import torchvision
"""

from __future__ import annotations

import torch

try:
    import torchvision
except RuntimeError as error:
    if "torchvision::" not in str(error):
        raise
    _library = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _library.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

__all__ = ["torchvision"]
