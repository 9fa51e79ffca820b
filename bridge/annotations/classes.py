"""Names and colours of what is written into QuPath, and how it is told apart from the user's own.

A class in QuPath is a chain of components, ``Tumor: Invasive``. A grade is added as a last component of our
own (``Tumor: HER2-HE 2+``), so that the pathologist's class stays the base class and can be restored from the
derived one alone. No component is ever exactly ``1+``, ``2+`` or ``3+``: on detections, QuPath would take it
for a staining intensity and compute H-scores.
"""

from __future__ import annotations

import unicodedata
from typing import Final

from bridge.results.schema import PREFIX
from herohe_model.grades import GRADES

TILE_CLASS: Final = f"{PREFIX} patch"
"""Class of the tile detections that stand for patches."""

WHOLE_IMAGE_NAME: Final = PREFIX
"""Name of the annotation that carries a slide's values when no annotation was sampled."""

MARK: Final = f"_{PREFIX}"
"""Key of hidden object metadata, and of an image's property, that only we write."""

MEASUREMENT_PREFIX: Final = f"{PREFIX}: "
"""Start of the name of every measurement that we write."""

PROPOSED: Final = "proposed"
"""Last component of the class of a region that a probe proposed: ``Tumor: proposed``."""

Colour = tuple[int, int, int]
"""Red, green, blue, each 0 to 255."""

GRADE_COLOURS: Final[dict[str, Colour]] = {
    "0": (90, 90, 180),
    "1+": (111, 154, 59),
    "2+": (225, 150, 50),
    "3+": (200, 50, 50),
}
"""QuPath's own colours of Negative, 2+ and 3+; its yellow of 1+ is that of what is selected."""

PROPOSED_COLOUR: Final[Colour] = (200, 120, 220)

TILE_COLOUR: Final[Colour] = (0, 160, 160)

_GRADE_COMPONENTS: Final = {f"{PREFIX} {grade}": grade for grade in GRADES}

OWN_COMPONENTS: Final = (*_GRADE_COMPONENTS, TILE_CLASS)
"""Class components that only we write."""


def components(class_name: str) -> tuple[str, ...]:
    """Return the components of a class as QuPath writes it: ``Tumor: Invasive`` has two, "" has none."""
    return tuple(part.strip() for part in class_name.split(":") if part.strip())


def is_own_component(component: str) -> bool:
    """Whether a class component is one that only we write."""
    return component in OWN_COMPONENTS


def is_own_class(class_name: str) -> bool:
    """Whether a class holds a component that only we write."""
    return any(is_own_component(part) for part in components(class_name))


def user_class(class_name: str) -> str:
    """Return the class without our components; "" when nothing of the user's remains."""
    return ": ".join(part for part in components(class_name) if not is_own_component(part))


def grade_component(grade: str) -> str:
    """Return the class component that stands for a grade."""
    return f"{PREFIX} {grade}"


def derived_class(class_name: str, grade: str) -> str:
    """Return the user's class with a grade: of ``Tumor`` and ``2+``, ``Tumor: HER2-HE 2+``."""
    base = user_class(class_name)
    own = grade_component(grade)
    return f"{base}: {own}" if base else own


def own_colour(class_name: str) -> Colour | None:
    """Return the colour of a class that we made, None for any other."""
    for part in reversed(components(class_name)):
        if part in _GRADE_COMPONENTS:
            return GRADE_COLOURS[_GRADE_COMPONENTS[part]]
        if part == TILE_CLASS:
            return TILE_COLOUR
    return None


def is_ignored(class_name: str) -> bool:
    """Whether the user's class ends in ``*``, which by QuPath's convention means "not for analysis"."""
    return user_class(class_name).endswith("*")


def is_proposed(class_name: str) -> bool:
    """Whether a class is that of regions that a probe proposed."""
    return PROPOSED in components(user_class(class_name))[1:]


def proposed_class(class_name: str) -> str:
    """Return the class of proposals for a class: of ``Tumor``, ``Tumor: proposed``."""
    return f"{user_class(class_name)}: {PROPOSED}"


def matches(class_name: str, wanted: str) -> bool:
    """Whether a class is the wanted one or derived from it, letter by letter.

    ``Tumor: Invasive`` matches ``Tumor: Invasive`` and ``Tumor``; so does ``Tumor: Invasive: HER2-HE 2+``. A
    letter may be typed as one character or composed of two.
    """
    asked = components(composed(wanted))
    count = len(asked)
    return count > 0 and asked in (
        components(composed(class_name))[:count],
        components(composed(user_class(class_name)))[:count],
    )


def chooses(wanted: str, class_name: str) -> bool:
    """Whether who asks for a class gets that of an annotation: it matches, and is not to be ignored.

    A class that is to be ignored is chosen by its exact name alone. What a probe proposed is chosen only by
    who asks for proposals.
    """
    own = user_class(class_name)
    if is_proposed(own) and not is_proposed(wanted):
        return False
    exact = components(composed(own)) == components(composed(wanted))
    return matches(class_name, wanted) and (exact or not is_ignored(own))


def composed(class_name: str) -> str:
    """Return a class with each of its letters as one character (Unicode's NFC), as most keyboards type it."""
    return unicodedata.normalize("NFC", class_name)
