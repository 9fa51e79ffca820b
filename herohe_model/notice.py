"""What every result, page and table says of itself."""

from typing import Final

RESEARCH_USE_ONLY: Final = "Research use only, not for diagnosis: HER2 status needs IHC, and ISH at 2+."
