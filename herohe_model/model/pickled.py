"""Tensors out of a pickle, of which nothing is executed: what PyTorch's own files are read by."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

from herohe_model.errors import HeroheError, os_problem


def read_pickled(path: Path, *, max_bytes: int, kind: type[HeroheError], remedy: str) -> object:
    """Read a pickle of tensors onto the CPU; PyTorch is loaded for it.

    Parameters
    ----------
    max_bytes
        Of the file, and of all that is packed into it.
    kind, remedy
        Of the errors.

    Returns
    -------
    object
        A tensor, or containers of tensors, numbers and text.

    Raises
    ------
    HeroheError
        Of `kind`, if it is missing, damaged, too large, or holds what would have to be executed.
    """
    import torch

    try:
        size = path.stat().st_size
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                size = max(size, sum(entry.file_size for entry in archive.infolist()))
        if size > max_bytes:
            raise kind(f"{path} has {size} bytes, more than the {max_bytes} that it may have", remedy)
        held: object = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise kind(os_problem(error), "Check the path") from error
    except pickle.UnpicklingError as error:
        raise kind(
            f"{path} holds more than tensors, which would have to be executed, or is damaged", remedy
        ) from error
    except (RuntimeError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        why = " ".join(str(error).split())[:200]
        raise kind(f"{path} is damaged: {why}", remedy) from error
    return held
