"""HDF5 files of strangers: what is in them is looked at before memory is taken for it.

A dataset may claim any size, lie in another file or be put together from several; none of that is followed.
h5py's exceptions become a FeatureFileError here.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import h5py
import numpy as np
from numpy.typing import NDArray

from herohe_model.errors import os_problem
from herohe_model.features.schema import FeatureFileError

MAX_PATCHES: Final = 4_000_000
MAX_DIMENSION: Final = 65_536
MAX_BYTES: Final = 8 << 30
"""Of a slide's features as float32: 800,000 patches of 2,560 numbers."""
MAX_ATTRIBUTE_BYTES: Final = 1 << 16
_MAX_CHUNK_BYTES: Final = 1 << 26
_MAX_RATIO: Final = 1100
"""A deflated block is at most 1,032 times as long unpacked (zlib's technical details)."""

AGAIN: Final = "Copy or extract it again, or take it out of the folder"
_RAISED: Final = (OSError, KeyError, ValueError, RuntimeError, TypeError, AttributeError, OverflowError)


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file to read; what h5py raises inside the block is turned into ours.

    Raises
    ------
    FeatureFileError
        If it is missing, no HDF5 file, or damaged.
    """
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        raise FeatureFileError(os_problem(error), "Check the path") from error
    if not regular:
        raise FeatureFileError(f"{path} is not a file", "Name a file of features")
    try:
        # Whoever reads needs no lock, which network shares often refuse.
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except PermissionError as error:
        raise FeatureFileError(f"{path} cannot be read", "Check its permissions") from error
    except _RAISED as error:
        why = " ".join(str(error).split())[:200]
        raise FeatureFileError(f"{path} is damaged, or no HDF5 file: {why}", AGAIN) from error


def dataset(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    """Return a dataset whose numbers lie in this very file.

    Raises
    ------
    FeatureFileError
        If there is none of the name, or it points somewhere else.
    """
    link = file.get(name, getlink=True)
    found = file[name] if isinstance(link, h5py.HardLink) else None
    if not isinstance(found, h5py.Dataset) or found.is_virtual or found.external:
        raise FeatureFileError(f"{path}: {name} is no array of this file", AGAIN)
    return found


def check_size(array: h5py.Dataset, width: int, path: Path) -> None:
    """Check that an array may be read: its kind, what it claims against limits and what the file holds.

    Parameters
    ----------
    width
        Bytes that a number will take in memory.

    Raises
    ------
    FeatureFileError
        If it may not.
    """
    name = str(array.name).lstrip("/")
    if array.dtype.kind not in "fiu" or array.dtype.itemsize > 8:
        raise FeatureFileError(f"{path}: {name} holds no plain numbers ({array.dtype})", AGAIN)
    size = int(array.dtype.itemsize)
    for length in array.shape:
        size *= int(length)
    if size // int(array.dtype.itemsize) * width > MAX_BYTES:
        raise FeatureFileError(
            f"{path}: {name} claims to have the shape {array.shape}, more than a slide can have", AGAIN
        )
    if size > _MAX_RATIO * array.id.get_storage_size():
        raise FeatureFileError(
            f"{path}: {name} claims to have the shape {array.shape}, which the file does not hold", AGAIN
        )
    chunk = int(array.dtype.itemsize)
    for length in array.chunks or ():
        chunk *= int(length)
    if chunk > max(_MAX_CHUNK_BYTES, 2 * size):
        raise FeatureFileError(f"{path}: {name} is stored in blocks larger than itself", AGAIN)


def read_matrix(array: h5py.Dataset, columns: int | None = None, *, path: Path) -> NDArray[np.generic]:
    """Read an array of rows, after :func:`check_size`, in the kind of numbers that the file has.

    Returns
    -------
    ndarray
        As :func:`matrix_shape` says.
    """
    rows, width = matrix_shape(array, columns, path=path)
    out = np.empty(array.shape or (0,), array.dtype.newbyteorder("="))
    if rows:
        array.read_direct(out)
    return out.reshape(rows, width)


def matrix_shape(array: h5py.Dataset, columns: int | None = None, *, path: Path) -> tuple[int, int]:
    """Return rows and columns of an array.

    Parameters
    ----------
    columns
        How many there must be; None for any.

    Returns
    -------
    rows, columns
        One dimension of length 1 before them is left out. An array of no numbers has no rows, and no columns
        where it does not say them: TRIDENT writes (0,) and (0, d).

    Raises
    ------
    FeatureFileError
        If it is no array of such rows, or larger than the limits.
    """
    shape = tuple(int(length) for length in (array.shape or (0,)))
    name = str(array.name).lstrip("/")
    if 0 in shape:
        return 0, columns or (shape[-1] if len(shape) > 1 else 0)
    if len(shape) == 3 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) != 2 or columns not in (None, shape[1]):
        wanted = f"(patches, {columns or 'numbers a patch'})"
        raise FeatureFileError(f"{path}: {name} has the shape {array.shape} instead of {wanted}", AGAIN)
    if shape[0] > MAX_PATCHES or shape[1] > MAX_DIMENSION:
        raise FeatureFileError(
            f"{path}: {name} claims to have the shape {array.shape}, more than a slide can have", AGAIN
        )
    return shape[0], shape[1]


def text(where: h5py.File | h5py.Dataset, name: str) -> str | None:
    """Return an attribute as text; None where there is none, or it says None as TRIDENT does."""
    value = _attribute(where, name)
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return value if isinstance(value, str) and value not in ("", "None") else None


def number(where: h5py.File | h5py.Dataset, name: str) -> float | None:
    """Return an attribute as a finite number above 0; None where there is none."""
    value = _attribute(where, name)
    if isinstance(value, str | bytes) or value is None:
        return None
    flat = np.asarray(value).reshape(-1)
    if flat.size == 0 or flat.dtype.kind not in "fiu":
        return None
    # CLAM gives downsamplings as a pair, of x and y.
    found = float(flat[0])
    return found if np.isfinite(found) and found > 0 else None


def _attribute(where: h5py.File | h5py.Dataset, name: str) -> object:
    if name not in where.attrs:
        return None
    if where.attrs.get_id(name).get_storage_size() > MAX_ATTRIBUTE_BYTES:
        return None
    value: object = where.attrs[name]
    return value
