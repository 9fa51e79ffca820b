"""How a model is named on the command line: a file, a published folder, or a name of ``model list``."""

from __future__ import annotations

from pathlib import Path


def model(given: str) -> Path:
    """Type of an option or argument: the path of a model file; see ``model.library.resolve_model``.

    Of a model that is kept by name, its digest is checked.
    """
    from herohe_model.model.library import resolve_model

    return resolve_model(given)
