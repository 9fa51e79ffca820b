"""What a bag model says of slides whose features are on disk already: the slides are not read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from herohe_model.bag.card import check_features
from herohe_model.errors import CancelledError, HeroheError
from herohe_model.features.read import read_features
from herohe_model.features.schema import FeatureFileError
from herohe_model.model.bag_model import BagModel
from herohe_model.model.probabilities import slide_probabilities


@dataclass(frozen=True)
class FeaturePrediction:
    """Of one slide.

    Attributes
    ----------
    name
        The file's name without its extension, which is the slide's.
    p_positive
        P(HER2-positive), 0 to 1.
    patches
        How many there are; all count.
    """

    name: str
    p_positive: float
    patches: int


def predict_features(
    model: BagModel,
    files: Mapping[str, Path],
    *,
    progress: Callable[[int], None],
    stop: Callable[[], bool],
) -> tuple[list[FeaturePrediction], list[tuple[str, str]]]:
    """Predict slides from files of features.

    Parameters
    ----------
    files
        As :func:`herohe_model.features.find.find_features` finds them.
    progress
        Told how many are done.

    Returns
    -------
    predictions, not_predicted
        In the order of `files`; of the latter, name and reason: files that cannot be read, hold no patches,
        or features of another kind than the model learned from.

    Raises
    ------
    CancelledError
        When `stop` said so.
    """
    predictions: list[FeaturePrediction] = []
    not_predicted: list[tuple[str, str]] = []
    for done, (name, path) in enumerate(files.items(), start=1):
        if stop():
            raise CancelledError(f"Predicting was stopped after {done - 1} of {len(files)} slides")
        try:
            found = read_features(path)
            check_features(model.card, found)
            if not found.count:
                raise FeatureFileError(f"{path} holds no patches", "Extract its features again")
            said = slide_probabilities(model.score(found.features).logits[None], model.card)
            p_positive = float(said.slide[said.steps.index(model.card.positive_step)])
            predictions.append(FeaturePrediction(name, p_positive, found.count))
        except HeroheError as error:
            not_predicted.append((name, str(error)))
        progress(done)
    return predictions, not_predicted
