"""The HEROHE method: slides, patches, composites, the ordinal network and the model file.

Nothing in this package knows of QuPath, sockets or the command line. What is listed here is for people who
write Python, see ``docs/python.md``. Each name is imported from its room when it is first asked for, so
importing the package is light; PyTorch comes with ``Scorer``, ``new_model`` and ``save_model`` alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__all__ = [
    "Compute",
    "GuardedSlide",
    "HeroheError",
    "ModelCard",
    "Scorer",
    "Slide",
    "__version__",
    "draw_composites",
    "find_patches",
    "new_model",
    "read_card",
    "read_composite",
    "save_model",
]

__version__ = "0.1.0"

if TYPE_CHECKING:
    from herohe_model.engines.scorer import Scorer
    from herohe_model.errors import HeroheError
    from herohe_model.model.card import ModelCard, read_card
    from herohe_model.model.checkpoint import save_model
    from herohe_model.model.compute import Compute
    from herohe_model.model.new_model import new_model
    from herohe_model.sampling.composite import draw_composites, read_composite
    from herohe_model.sampling.patches import find_patches
    from herohe_model.slides.guarded_slide import GuardedSlide
    from herohe_model.slides.slide import Slide
else:  # Type checkers must not see it: it would make every name an attribute.
    _HOME = {
        "Compute": "model.compute",
        "GuardedSlide": "slides.guarded_slide",
        "HeroheError": "errors",
        "ModelCard": "model.card",
        "Scorer": "engines.scorer",
        "Slide": "slides.slide",
        "draw_composites": "sampling.composite",
        "find_patches": "sampling.patches",
        "new_model": "model.new_model",
        "read_card": "model.card",
        "read_composite": "sampling.composite",
        "save_model": "model.checkpoint",
    }

    def __getattr__(name):
        """Import a name of the list from its room."""
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name == "Scorer":
            # Only now is it known that this process shall compute.
            import_module(f"{__name__}.model.machine").wait_passively()
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
