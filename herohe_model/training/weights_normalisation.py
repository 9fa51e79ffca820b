"""How pictures were normalised for weights that others trained: it belongs to them, and is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from timm.models import get_pretrained_cfg

from herohe_model.encoders.table import check_normalisation, read_config
from herohe_model.encoders.weights import CONFIG
from herohe_model.errors import ModelFileError, OptionError
from herohe_model.model.new_model import Normalisation

_NAMED: Final[Mapping[str, Normalisation]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
_FORM: Final = "Say --normalisation timm, imagenet, half, or six numbers such as 0.7,0.6,0.7/0.2,0.2,0.2"


def normalisation_of(weights: Path, backbone: str, said: str | None) -> Normalisation | None:
    """Return mean and standard deviation of R, G, B that weights were trained with.

    Parameters
    ----------
    weights
        Their file; timm's ``config.json`` may lie beside it.
    backbone
        Name of the timm architecture.
    said
        What the user says; wins over the file.

    Returns
    -------
    Normalisation or None
        None for what timm says of the backbone.

    Raises
    ------
    OptionError
        If nobody says it, or nothing that normalises a picture.
    ModelFileError
        If a ``config.json`` is there and cannot be read.
    """
    if said is not None:
        return None if said == "timm" else _NAMED.get(said) or _numbers(said)
    config = weights.with_name(CONFIG)
    found = read_config(config).normalisation if config.is_file() else None
    if found is not None:
        try:
            check_normalisation(*found)
        except ValueError as error:
            raise ModelFileError(f"{config}: {error}", _FORM) from error
        return found
    known = get_pretrained_cfg(backbone)
    timms = f"; timm's of {backbone} is {_text(known.mean)}/{_text(known.std)}" if known else ""
    raise OptionError(
        f"{weights} does not say how pictures were normalised for its weights{timms}",
        f"Put the config.json of the weights beside it. {_FORM}",
    )


def _numbers(said: str) -> Normalisation:
    try:
        mean, std = (tuple(float(number) for number in part.split(",")) for part in said.split("/"))
        (r, g, b), (x, y, z) = mean, std
        check_normalisation((r, g, b), (x, y, z))
    except ValueError as error:
        raise OptionError(f"{said!r} is no normalisation ({error})", _FORM) from error
    return (r, g, b), (x, y, z)


def _text(numbers: tuple[float, ...]) -> str:
    return ",".join(f"{number:g}" for number in numbers)
