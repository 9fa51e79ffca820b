"""Files of features looked at as a set: what each holds, and what does not go together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from herohe_model.errors import HeroheError
from herohe_model.features.find import find_features
from herohe_model.features.read import read_features
from herohe_model.features.schema import FeatureFacts, facts_of

_NAMED: Final = 3


@dataclass(frozen=True)
class CheckedFile:
    """A file of features: what it says, or why it cannot be used (``problem``, "" otherwise)."""

    name: str
    facts: FeatureFacts | None
    problem: str = ""


def check_features(folder: Path) -> Iterator[CheckedFile]:
    """Read every file of features in a folder whole, one after the other.

    Raises
    ------
    FeatureFileError
        If the folder cannot be used at all.
    """
    for name, path in find_features(folder).items():
        try:
            yield CheckedFile(name, facts_of(read_features(path)))
        except HeroheError as error:
            yield CheckedFile(name, None, str(error))


def misfits(files: Sequence[FeatureFacts]) -> list[str]:
    """Say what of files does not go together in one set; a sentence each."""
    full = [facts for facts in files if facts.count]
    kinds = {
        "come from several encoders": [f.encoder or "one that is not named" for f in full],
        "have features of several lengths": [f"{f.dimension} numbers" for f in full],
        "were made from several weights": [
            str(f.provenance["weights_sha256"])[:12] for f in full if "weights_sha256" in f.provenance
        ],
        "show patches of several sizes": [_side(f) for f in full],
    }
    found = []
    for what, values in kinds.items():
        counts = Counter(values).most_common()
        if len(counts) > 1:
            said = ", ".join(f"{count} of {value}" for value, count in counts[:_NAMED])
            found.append(f"The files {what}: {said}{', and more' if len(counts) > _NAMED else ''}.")
    return found


def describe(facts: FeatureFacts) -> str:
    """Return what a file holds in one line, without its name."""
    made = f"{facts.layout}, {facts.encoder or 'encoder not named'}"
    where = {"px": "coordinates in px", "um": "coordinates in µm", None: "no coordinates"}[facts.coordinates]
    return f"{made}, {facts.count} patches of {facts.dimension} numbers, {_side(facts)}, {where}"


def _side(facts: FeatureFacts) -> str:
    """Return the side of a patch: in µm where that is known, which scans share."""
    if facts.patch_um is not None:
        px = f" ({facts.patch_px} px)" if facts.patch_px is not None else ""
        return f"{facts.patch_um:.4g} µm{px}"
    if facts.patch_size_level0 is not None:
        return f"{facts.patch_size_level0} px of level 0"
    return "size not said"
