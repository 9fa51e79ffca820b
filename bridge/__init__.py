"""QuPath, ZeroMQ and the command line around :mod:`herohe_model`.

What is listed here is for people who write Python, see ``docs/python.md``. Each name is imported from its
room when it is first asked for, so importing the package is light.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from herohe_model import __version__

__all__ = [
    "Annotation",
    "BatchOptions",
    "ScoreOptions",
    "__version__",
    "annotations_from_geojson",
    "build_regions",
    "connect_or_start",
    "find_run",
    "measurements",
    "open_collection",
    "run_batch",
    "score_slide",
]

if TYPE_CHECKING:
    from bridge.annotations.geojson import annotations_from_geojson
    from bridge.annotations.regions import Annotation, build_regions
    from bridge.batch.options import BatchOptions
    from bridge.batch.run import run_batch
    from bridge.client.client import connect_or_start
    from bridge.projects.open import open_collection
    from bridge.results.run import find_run
    from bridge.results.schema import measurements
    from bridge.scoring.options import ScoreOptions
    from bridge.scoring.slide import score_slide
else:  # Type checkers must not see it: it would make every name an attribute.
    _HOME = {
        "Annotation": "annotations.regions",
        "BatchOptions": "batch.options",
        "ScoreOptions": "scoring.options",
        "annotations_from_geojson": "annotations.geojson",
        "build_regions": "annotations.regions",
        "connect_or_start": "client.client",
        "find_run": "results.run",
        "measurements": "results.schema",
        "open_collection": "projects.open",
        "run_batch": "batch.run",
        "score_slide": "scoring.slide",
    }

    def __getattr__(name):
        """Import a name of the list from its room."""
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
