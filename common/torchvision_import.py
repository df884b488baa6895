"""torchvision, also beside a CPU build of torch that lacks its compiled operators.

The wheels of torchvision on the package index are built for CUDA. Beside a CPU build of torch
their operator library does not load, and ``import torchvision`` fails while it registers shapes
for two operators that nobody declared ("operator torchvision::nms does not exist"). Declaring
the two schemas first lets datasets, transforms and models work; calling the operators themselves
(detection only, not used here) still raises. On an ordinary installation the first import
succeeds and nothing is declared.

Use: ``from common.torchvision_import import torchvision``.
"""

import sys

import torch

# Operators whose shapes torchvision registers on import (torchvision/_meta_registrations.py).
_UNDECLARED = ("nms", "qnms")
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


try:
    import torchvision
except RuntimeError as error:
    if "torchvision::" not in str(error):
        raise
    for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    for operator in _UNDECLARED:
        torch.library.define(f"torchvision::{operator}", _SCHEMA)
    import torchvision

__all__ = ["torchvision"]
