"""Plugin of pytest: lets torchvision from PyPI import beside a PyTorch without CUDA, before anything else imports it.

torchvision from PyPI is built for PyTorch with CUDA. Beside one without, its compiled operators do not load, and its
import ends with an error where it describes these two. Once they are declared, all of its Python code runs as it is:
images are resized by Pillow, and neither open_clip nor this package calls a compiled operator. A torchvision that was
built for PyTorch without CUDA does not need this; PyPI has none.
"""

import torch


if torch.version.cuda is None:
    for operator in ("nms", "qnms"):
        torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float threshold) -> Tensor")
