"""What every result, page and table says of itself."""

from typing import Final

RESEARCH_USE_ONLY: Final = "Research use only, not for diagnosis: HER2 status needs IHC, and ISH at 2+."

SEEN_IN_TRAINING: Final = (
    "The model was trained on this very slide, by its fingerprint: what it says of it shows nothing."
)
"""What a result says of a slide that the model's card names."""

TOY_NOTICES: Final = {
    "demo": "A demo model: it learned from synthetic pictures, and what it says of a slide means nothing.",
    "random": "A random model: nothing was learned, and what it says of a slide means nothing.",
}
"""What a result says first of all, by what the card says of the model's weights."""
