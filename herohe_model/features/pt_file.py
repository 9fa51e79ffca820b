"""CLAM's ``.pt``: a pickle, of which nothing is executed, and a tensor alone is taken.

It says neither where patches lie nor what made them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from herohe_model.features.schema import FeatureFileError, SlideFeatures
from herohe_model.model.pickled import read_pickled

_AGAIN: Final = "Use the HDF5 file that CLAM or TRIDENT wrote beside it"


def read_pt(path: Path) -> SlideFeatures:
    """Read a tensor (n, d) of features; PyTorch is loaded for it.

    Raises
    ------
    FeatureFileError
        If it is missing, damaged, holds anything else than one tensor of plain numbers, or is too large.
    """
    import torch

    from herohe_model.features.hdf5 import MAX_BYTES, MAX_DIMENSION, MAX_PATCHES

    tensor = read_pickled(path, max_bytes=MAX_BYTES, kind=FeatureFileError, remedy=_AGAIN)
    if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.is_quantized:
        raise FeatureFileError(f"{path} holds no tensor of features", _AGAIN)
    # A tensor of few numbers may claim any shape, by strides of 0.
    count, dimension = tensor.shape if tensor.ndim == 2 else (0, 0)
    if not tensor.is_floating_point() or count > MAX_PATCHES or dimension > MAX_DIMENSION:
        raise FeatureFileError(f"{path} holds a tensor of {tuple(tensor.shape)} {tensor.dtype}", _AGAIN)
    if tensor.numel() > 0 and (tensor.ndim != 2 or 4 * tensor.numel() > MAX_BYTES):
        raise FeatureFileError(f"{path} holds a tensor of the shape {tuple(tensor.shape)}", _AGAIN)
    rows = tensor.detach().to(torch.float32).contiguous().numpy().reshape(count, dimension)
    if not bool(np.isfinite(rows).all()):
        raise FeatureFileError(f"{path} holds features that are not finite numbers", _AGAIN)
    return SlideFeatures(path, path.stem, "pt", None, count, dimension, features=rows)
