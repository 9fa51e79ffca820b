"""Which files of a folder are features of a slide."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from herohe_model.errors import os_problem
from herohe_model.features.schema import FeatureFileError

SUFFIXES: Final = (".h5", ".hdf5", ".pt")
_NO_PATCH_FEATURES: Final = ("patches", "slide_features")
"""How folders of TRIDENT and CLAM begin that hold coordinates, or features of whole slides."""


def find_features(folder: Path) -> Mapping[str, Path]:
    """Find the files of features in a folder and in those below it.

    Hidden files, TRIDENT's coordinates and its features of whole slides are passed over; so are ``.pt`` files
    where there is HDF5, as CLAM writes both.

    Returns
    -------
    mapping
        From a file's name without its extension, which is the slide's, to the file; in the order of names.

    Raises
    ------
    FeatureFileError
        If the folder cannot be read, holds none, or several of one slide, as of several encoders.
    """
    if not folder.is_dir():
        raise FeatureFileError(f"There is no folder {folder}", "Name the folder that holds the features")
    found: list[Path] = []

    def refuse(error: OSError) -> None:
        raise FeatureFileError(os_problem(error), "Check its permissions") from error

    for where, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith((".", *_NO_PATCH_FEATURES))]
        found += [
            Path(where, name)
            for name in files
            if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        ]
    if any(path.suffix.lower() != ".pt" for path in found):
        found = [path for path in found if path.suffix.lower() != ".pt"]
    if not found:
        raise FeatureFileError(
            f"{folder} holds no features (files that end with {', '.join(SUFFIXES)})",
            "Name the folder that TRIDENT, STAMP, CLAM or `herohe-bridge features extract` wrote",
        )
    named: dict[str, Path] = {}
    for path in sorted(found):
        name = unicodedata.normalize("NFC", path.stem)
        if name in named:
            raise FeatureFileError(
                f"{folder} holds several files of {name}: {named[name]} and {path}",
                "Name the folder of one encoder",
            )
        named[name] = path
    return dict(sorted(named.items()))
