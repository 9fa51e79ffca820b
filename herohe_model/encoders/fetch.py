"""Weights fetched from the Hugging Face hub."""

from __future__ import annotations

from herohe_model.encoders.table import Encoder
from herohe_model.encoders.weights import CONFIG, NAMES, WeightsFile
from herohe_model.errors import ModelFileError
from herohe_model.model.hub import HubSource, hub_file


def fetch_weights(encoder: Encoder) -> WeightsFile:
    """Fetch an encoder's weights into the cache of the Hugging Face hub; those that are there stay.

    Raises
    ------
    ModelFileError
        If they cannot be had: why, and what to do.
    """
    if not encoder.source:
        raise ModelFileError(f"{encoder.name} has no source to fetch from", "Name its weights with --weights")
    source = HubSource(
        encoder.source,
        f"The weights of {encoder.name}",
        "copy the file and its config.json from elsewhere, and name it with --weights",
        encoder.licence,
    )
    config = hub_file(source, CONFIG)
    for name in NAMES:
        path = hub_file(source, name)
        if path is not None:
            return WeightsFile(path, config)
    raise ModelFileError(
        f"{encoder.source} holds neither {' nor '.join(NAMES)}",
        "Look at its page for the file of its weights, and name that with --weights",
    )
