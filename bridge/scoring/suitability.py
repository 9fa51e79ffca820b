"""Whether a slide is what a model is for: one stained with H&E."""

from __future__ import annotations

from typing import Final

from herohe_model.errors import UnsuitableSlideError
from herohe_model.sampling.likeness import Likeness
from herohe_model.sampling.stain import StainColours

_HE: Final = ("", "UNSET", "BRIGHTFIELD_H_E")
_TYPES: Final = {
    "BRIGHTFIELD_H_DAB": "Brightfield (H-DAB)",
    "BRIGHTFIELD_OTHER": "Brightfield (other)",
    "FLUORESCENCE": "Fluorescence",
    "OTHER": "Other",
}
"""QuPath's image types by their names in its files, as its window shows them."""
_OVERRIDE: Final = "give --any-stain (in QuPath: anyStain) to score it all the same"


def check_image_type(image_type: str, name: str) -> None:
    """Refuse an image whose type in QuPath is set to anything but Brightfield (H&E).

    Parameters
    ----------
    image_type
        The name of QuPath's constant, such as ``BRIGHTFIELD_H_DAB``; "" where there is none.

    Raises
    ------
    UnsuitableSlideError
        If it is.
    """
    if image_type not in _HE:
        raise UnsuitableSlideError(
            f"The image type of {name} is {_TYPES.get(image_type, image_type)}, and HER2-HE reads H&E only",
            f"If it is H&E, set its type in QuPath's Image tab, or {_OVERRIDE}",
        )


def stain_refusal(stain: StainColours, name: str) -> str:
    """Say why a slide with these colours is not scored; "" when nothing speaks against it."""
    if stain.stain() != "brown":
        return ""
    return (
        f"{name} does not look like H&E: its tissue is brown, as by DAB ({stain.brown_share:.0%} of it). "
        f"HER2-HE reads H&E only; {_OVERRIDE}."
    )


def unlike_training(likeness: Likeness | None, name: str) -> str:
    """Say in what a slide is unlike those that the model was trained on; "" where it is not."""
    if likeness is None or not likeness.unlike:
        return ""
    how = "; ".join(likeness.unlike)
    kind = "is" if "features" in likeness.percentiles else "is stained"
    return f"{name} {kind} unlike what the model knows: {how}. Its grade may mean little."


def stain_warning(stain: StainColours, name: str) -> str:
    """Say what makes the stain doubtful; "" when nothing does."""
    kind = stain.stain()
    if kind in ("H&E", "unknown"):
        return ""
    look = "has hardly any pink" if kind == "doubtful blue" else "is brownish"
    return f"The tissue of {name} {look}: if this is no H&E, the grade means nothing."
