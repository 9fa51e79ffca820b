"""What is known of each encoder, as data: ``encoders.json`` here, and files of the same form by users.

Some facts stand in the ``config.json`` that timm writes beside weights; what a row leaves out is taken from
there. Nothing that a table or a config names is executed or fetched because of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from herohe_model.errors import ModelFileError, OptionError, os_problem

FORMAT: Final = 1
TABLE_VARIABLE: Final = "HEROHE_ENCODER_TABLE"
"""Names a file with encoders of the user's own, where no option does."""
MAX_BYTES: Final = 1 << 20

Pool = Literal["token", "mean", "token+mean", "own"]
"""What of the network's output is the feature: the class token, the mean of the patch tokens, the first and
then the second, or what the network itself pools."""

Gate = Literal["open", "gated", "disputed"]
Commercial = Literal["yes", "no", "ask"]
Colour = tuple[float, float, float]
Value = bool | int | float | str

ARGUMENTS: Final = frozenset(
    {
        *("act_layer", "class_token", "depth", "dynamic_img_pad", "dynamic_img_size", "embed_dim"),
        *("fc_norm", "final_norm", "global_pool", "img_size", "init_values", "mlp_layer", "mlp_ratio"),
        *("no_embed_class", "num_heads", "patch_size", "pos_embed", "pre_norm", "qk_norm", "qkv_bias"),
        *("reg_tokens", "window_size"),
    }
)
"""Arguments of ``timm.create_model`` that a table may set; none of them reads a file or fetches one."""

_TABLE: Final = "Correct it after the form of docs/encoders.md"


class Encoder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known of an encoder.

    Attributes
    ----------
    name
        As ``--encoder`` takes it, and as it stands in files of features: TRIDENT's where it has one.
    aliases
        What other tools call it.
    source
        Repository on the Hugging Face hub; "" for one whose weights are a file.
    architecture, arguments
        How timm builds it; "" for what ``config.json`` says. Layers are named: ``SwiGLUPacked``, ``SiLU``.
    input_px, mpp
        Side of what it sees, px, and the scale it was trained at, µm/px.
    mean, std
        Normalisation of R, G, B from 0 to 1; None for what ``config.json`` says.
    pool, dimension
        What of its output is the feature, and how many numbers that is.
    licence, gate, commercial
        Terms of the weights; whether one must ask for them; whether a company may use them.
    megabytes
        Size of the weights; None where unknown.
    sha256
        Of the weights' file, where one alone is to be taken; "" for any that fits.
    trained_on
        Where that matters to a study.
    facts_from
        Where each fact comes from.
    """

    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    aliases: tuple[str, ...] = ()
    source: Annotated[str, msgspec.Meta(pattern=r"^$|^[A-Za-z0-9][\w.-]{0,95}/[\w.-]{1,95}$")] = ""
    architecture: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.]{0,80}$")] = ""
    arguments: dict[str, Value] = {}
    input_px: Annotated[int, msgspec.Meta(ge=8, le=4096)]
    mpp: Annotated[float, msgspec.Meta(ge=0.05, le=20)]
    mean: Colour | None = None
    std: Colour | None = None
    pool: Pool
    dimension: Annotated[int, msgspec.Meta(ge=1, le=65_536)]
    licence: str = ""
    gate: Gate = "open"
    commercial: Commercial = "ask"
    megabytes: int | None = None
    sha256: Annotated[str, msgspec.Meta(pattern=r"^$|^[0-9a-f]{64}$")] = ""
    trained_on: str = ""
    note: str = ""
    facts_from: dict[str, str] = {}

    def __post_init__(self) -> None:
        """Refuse what the types cannot."""
        unknown = sorted(self.arguments.keys() - ARGUMENTS)
        if unknown:
            raise ValueError(f"{self.name}: {', '.join(unknown)} is no argument that a table may set")
        check_normalisation(self.mean, self.std)


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: Annotated[int, msgspec.Meta(ge=FORMAT, le=FORMAT)]
    encoders: tuple[Encoder, ...]


class _Pretrained(msgspec.Struct, frozen=True):
    mean: Colour | None = None
    std: Colour | None = None


class TimmConfig(msgspec.Struct, frozen=True):
    """What timm writes beside weights, as far as it is read.

    Attributes
    ----------
    model_args
        Arguments of the architecture.
    pretrained_cfg
        Holds the normalisation; older files have it beside the architecture.
    """

    architecture: str = ""
    model_args: dict[str, Any] = {}
    pretrained_cfg: _Pretrained = _Pretrained()
    mean: Colour | None = None
    std: Colour | None = None

    @property
    def normalisation(self) -> tuple[Colour, Colour] | None:
        """Mean and standard deviation of R, G, B from 0 to 1, if it says them."""
        mean, std = self.pretrained_cfg.mean or self.mean, self.pretrained_cfg.std or self.std
        return None if mean is None or std is None else (mean, std)


def check_normalisation(mean: Colour | None, std: Colour | None) -> None:
    """Raise a ValueError for numbers that normalise no picture."""
    if (mean is None) != (std is None):
        raise ValueError("mean and std go together")
    if mean is not None and not all(0.0 <= value <= 1.0 for value in mean):
        raise ValueError(f"mean is {mean}, and R, G, B go from 0 to 1")
    if std is not None and not all(1e-3 <= value <= 10.0 and math.isfinite(value) for value in std):
        raise ValueError(f"std is {std}")


def known_encoders(table: Path | None = None) -> Mapping[str, Encoder]:
    """Return the encoders by name, in the order of the table; those of the user's first.

    Parameters
    ----------
    table
        A user's table; a row of it takes the place of ours of the same name.

    Raises
    ------
    OptionError
        If it cannot be read, or is none.
    """
    ours = _decode((resources.files(__package__) / "encoders.json").read_bytes(), "encoders.json")
    own = () if table is None else _decode(_read(table, OptionError), str(table))
    found = {encoder.name: encoder for encoder in own}
    if len(found) < len(own):
        raise OptionError(f"{table} has two encoders of one name", _TABLE)
    return {**found, **{encoder.name: encoder for encoder in ours if encoder.name not in found}}


def find_encoder(name: str, table: Path | None = None) -> Encoder:
    """Return the encoder of a name, or of what another tool calls it.

    Raises
    ------
    OptionError
        If there is none.
    """
    known = known_encoders(table)
    found = known.get(name) or next((e for e in known.values() if name in (*e.aliases, e.source)), None)
    if found is None:
        raise OptionError(
            f"No encoder {name!r} is known",
            f"Use one of {', '.join(known)}, or describe yours in a file for --encoder-table",
        )
    return found


def read_config(path: Path) -> TimmConfig:
    """Read the ``config.json`` that timm writes beside weights.

    Raises
    ------
    ModelFileError
        If it cannot be read, or is none.
    """
    try:
        return msgspec.json.decode(_read(path, ModelFileError), type=TimmConfig)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} is no configuration of timm: {error}", "Fetch it again") from error


def completed(encoder: Encoder, config: TimmConfig | None) -> Encoder:
    """Return an encoder with what its row leaves out, from the configuration beside its weights.

    Raises
    ------
    ModelFileError
        If something is still missing, or the configuration normalises otherwise than the row.
    """
    said = config.normalisation if config is not None else None
    if said is not None and encoder.mean is not None and not _alike((encoder.mean, encoder.std), said):
        raise ModelFileError(
            f"The config.json beside the weights of {encoder.name} normalises by mean {said[0]} and std "
            f"{said[1]}, and the table by {encoder.mean} and {encoder.std}: features would be others",
            "Take the weights that the table means, or put these into a row of your own (--encoder-table)",
        )
    if config is not None:
        arguments = {k: v for k, v in config.model_args.items() if k in ARGUMENTS and isinstance(v, Value)}
        if not encoder.architecture:
            encoder = msgspec.structs.replace(
                encoder, architecture=config.architecture, arguments={**arguments, **encoder.arguments}
            )
        if encoder.mean is None and said is not None:
            encoder = msgspec.structs.replace(encoder, mean=said[0], std=said[1])
    missing = [
        *(("architecture",) if not encoder.architecture else ()),
        *(("normalisation",) if encoder.mean is None else ()),
    ]
    if missing:
        raise ModelFileError(
            f"The {' and '.join(missing)} of {encoder.name} stands in the config.json beside its weights, "
            "which is not there",
            f"Put the config.json of {encoder.source or 'the weights'} beside the file, or name both in a "
            "row of your own (--encoder-table)",
        )
    try:
        check_normalisation(encoder.mean, encoder.std)
    except ValueError as error:
        raise ModelFileError(f"The config.json beside the weights of {encoder.name}: {error}") from error
    return encoder


def _alike(one: tuple[Any, Any], other: tuple[Colour, Colour]) -> bool:
    pairs = zip((*one[0], *one[1]), (*other[0], *other[1]), strict=True)
    return all(abs(a - b) < 1e-4 for a, b in pairs)


def _decode(data: bytes, what: str) -> tuple[Encoder, ...]:
    try:
        return msgspec.json.decode(data, type=_Table).encoders
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise OptionError(f"{what} is no table of encoders: {error}", _TABLE) from error


def _read(path: Path, kind: type[OptionError] | type[ModelFileError]) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise kind(os_problem(error), "Check the path") from error
    if len(data) > MAX_BYTES:
        raise kind(f"{path} has more than {MAX_BYTES} bytes", _TABLE)
    return data
