"""The model card: what a model file says of itself, read and checked without its weights.

The card is JSON under one metadata key of a safetensors file. Reading trusts nothing: sizes are checked
before memory is taken, nothing is ever unpickled, and every refusal says which file and why.
"""

from __future__ import annotations

import hashlib
import math
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final, Literal

import msgspec

from herohe_model.errors import ModelFileError
from herohe_model.grades import Target
from herohe_model.model.calibration import CallRule, Platt

FORMAT_VERSION: Final = 2

_OLDEST_VERSION: Final = 1
"""Its cards lack fields of today, which then say "not recorded"."""

CARD_KEY: Final = "herohe_model_card"

MAX_FILE_BYTES: Final = 8 * 2**30

USUAL_THRESHOLD: Final = 0.07
"""Least mean saturation of a patch, 0 to 1, where nothing says another."""

MAX_HEADER_BYTES: Final = 16 * 2**20

_MAX_DEPTH: Final = 20
"""Nesting of metrics: what writes a card writes three."""

_ITEM_BYTES: Final = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1}

MAKE_ANOTHER: Final = "Use a file made by herohe-bridge train or herohe-bridge model new"

COPY_AGAIN: Final = "Copy the file again from where it came"

Head = Literal["free", "ordered"]

TargetName = Literal["ihc", "ihc+ish"]

Pooling = Literal["mean", "attention"]

Knowledge = Literal["trained", "demo", "random", "not recorded"]

Side = Annotated[int, msgspec.Meta(ge=16, le=4096)]

Name = Annotated[str, msgspec.Meta(pattern=r"^[^\x00-\x1f\x7f-\x9f]{1,100}$")]

Quantiles = Annotated[tuple[float, ...], msgspec.Meta(min_length=21, max_length=21)]
SlideDigest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{16}$")]


class BagCard(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a bag model pools a region's patches, and what made their features.

    Attributes
    ----------
    pooling
        ``mean``, or gated ``attention`` (Ilse, Tomczak and Welling 2018, *Attention-based Deep
        Multiple Instance Learning*).
    dimension
        Numbers of a patch as the encoder gives them.
    width
        Numbers of a patch after the model's own layer.
    attention_width
        Numbers of each branch of the attention; None for half of `width`.
    encoder
        As files of features call it, see :mod:`herohe_model.encoders`. Its weights are not in the model file.
    encoder_sha256
        Of the encoder's weights; "" where the files of features did not say.
    golden
        Logits of drawn features, highest step first; what computes others must not score.
    encoder_golden
        What the encoder gave for the first picture of :mod:`herohe_model.encoders.golden`, `dimension`
        numbers; empty where the files of features did not say. What gives others must not embed.
    """

    pooling: Pooling
    dimension: Annotated[int, msgspec.Meta(ge=1, le=65_536)]
    width: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 128
    attention_width: Annotated[int, msgspec.Meta(ge=1, le=4096)] | None = None
    encoder: Name
    encoder_sha256: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?$")] = ""
    golden: tuple[float, ...] = ()
    encoder_golden: tuple[float, ...] = ()


class StainSeen(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the stains of the training slides are spread; see :mod:`herohe_model.sampling.likeness`.

    Attributes
    ----------
    slides
        How many slides.
    density, red, blue
        Of each measure the percentiles 0, 5, ... 100, ascending.
    """

    slides: int
    density: Quantiles
    red: Quantiles
    blue: Quantiles


class FeaturesSeen(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far the training slides' features lie from those of the others among them.

    See :mod:`herohe_model.sampling.likeness`.

    Attributes
    ----------
    slides
        How many slides.
    distance
        The percentiles 0, 5, ... 100, ascending.
    """

    slides: int
    distance: Quantiles


class ModelCard(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a model is and how it must be used; scoring and training take everything from it.

    Attributes
    ----------
    name
        Stands in every result; one line of at most 100 characters.
    backbone
        Name of a timm architecture, with or without the tag of its weights; "" of a bag model.
    head
        ``free``: a linear function for each bit; ``ordered``: one direction and ordered biases.
    target
        ``ihc`` (3 bits) or ``ihc+ish`` (4 bits), see :class:`~herohe_model.grades.Target`.
    patch_px
        Side of a patch, px at `mpp`.
    grid
        A composite has ``grid`` x ``grid`` patches.
    mpp
        µm per px of the pixels that the network sees.
    foreground_threshold
        Least mean saturation of a foreground patch, 0 to 1.
    mean, std
        Normalisation of R, G, B on the scale 0 to 1.
    positive_step
        The bit that is read as P(HER2-positive), one of ``Target.steps``.
    temperature
        Logits are divided by it before they become probabilities.
    decision_threshold
        Least P(positive) of HER2-positive, 0 to 1.
    threshold_chosen
        How the threshold was chosen.
    metrics
        What evaluation found; numbers, text, and nested dicts or lists of them.
    trained_on
        What the weights were trained on.
    versions
        Versions of the libraries that made the file.
    note
        Anything that a user of the model must know.
    members
        Networks in the file; more than one is an ensemble whose logits are averaged.
    knowledge
        What stands behind the weights: ``trained`` on slides, ``demo`` on synthetic pictures, ``random``.
    cohort
        Name of the cohort that it was trained on, as whoever trained it gave it; "" where it was not stated.
    learned
        The steps that were learned from both answers; None where that was not recorded. What rests on any
        other step is not claimed.
    calibration
        For each calibrated step, how a slide's mean logit becomes a probability; then `temperature` is 1.
        Empty: probabilities are not calibrated, but divided by `temperature`.
    calibrated_for
        What the calibration was fitted on, in words.
    call
        How a slide is called likely positive, uncertain or likely negative; None: no call is claimed.
    slides
        A short digest of the fingerprint of each slide that it was trained on, see
        :func:`herohe_model.dataset.fingerprints.short_digest`; empty where that was not recorded.
    bag
        Of a model that pools features of patches; None of one that sees composites. A bag has no grid.
    """

    format_version: int = FORMAT_VERSION
    name: Name
    backbone: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.]{0,100}$")]
    head: Head
    target: TargetName
    patch_px: Side = 512
    grid: Annotated[int, msgspec.Meta(ge=1, le=16)] = 5
    mpp: Annotated[float, msgspec.Meta(ge=0.01, le=100.0)]
    foreground_threshold: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    positive_step: str
    temperature: Annotated[float, msgspec.Meta(ge=0.001, le=1000.0)] = 1.0
    decision_threshold: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] = 0.5
    threshold_chosen: str = "not chosen: one half"
    metrics: dict[str, Any] = {}
    trained_on: str = ""
    versions: dict[str, str] = {}
    note: str = ""
    members: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    knowledge: Knowledge = "not recorded"
    cohort: str = ""
    learned: tuple[str, ...] | None = None
    calibration: dict[str, Platt] = {}
    calibrated_for: str = ""
    call: CallRule | None = None
    slides: Annotated[tuple[SlideDigest, ...], msgspec.Meta(max_length=100_000)] = ()
    bag: BagCard | None = None
    stain: StainSeen | None = None
    features: FeaturesSeen | None = None

    def __post_init__(self) -> None:
        """Refuse what the types cannot."""
        if _depth(self.metrics) > _MAX_DEPTH:
            raise ValueError(f"metrics is nested more than {_MAX_DEPTH} deep")
        if (self.bag is None) == (not self.backbone):
            raise ValueError("a model has a backbone, or is a bag model")
        if self.positive_step not in self.steps:
            raise ValueError(f"positive_step {self.positive_step!r} is none of {', '.join(self.steps)}")
        unknown = {*(self.learned or ()), *self.calibration} - set(self.steps)
        if unknown:
            raise ValueError(f"{', '.join(sorted(unknown))}: no such step among {', '.join(self.steps)}")
        if self.learned is not None and self.positive_step not in self.learned:
            raise ValueError(
                f"{self.positive_step}, read as HER2-positive, was not learned from both answers"
            )
        if self.call is not None and self.positive_step not in self.calibration:
            raise ValueError(f"a call needs a calibrated {self.positive_step}")
        if not all(-10.0 <= m <= 10.0 for m in self.mean) or not all(1e-3 <= s <= 10.0 for s in self.std):
            raise ValueError(f"mean {self.mean} or std {self.std} is out of range")

    @property
    def steps(self) -> tuple[str, ...]:
        """Names of the bits, highest step first."""
        return Target(self.target).steps

    @property
    def positive_bit(self) -> int:
        """Index of ``positive_step`` among the bits."""
        return self.steps.index(self.positive_step)

    @property
    def claimed_steps(self) -> tuple[str, ...]:
        """Steps that something may be said of: learned from both answers, and calibrated where any is."""
        steps = self.steps if self.learned is None else self.learned
        return tuple(s for s in self.steps if s in steps and (not self.calibration or s in self.calibration))

    @property
    def logit_unit(self) -> float:
        """What logits are divided by before their differences mean anything; the steepest step decides."""
        slopes = [line.slope for line in self.calibration.values()]
        return 1.0 / max(max(slopes), 1e-3) if slopes else self.temperature

    @property
    def is_toy(self) -> bool:
        """Whether what it says of a slide means nothing."""
        return self.knowledge in ("demo", "random")

    @property
    def side_px(self) -> int:
        """Side of a composite, px at ``mpp``."""
        return self.grid * self.patch_px


def _depth(value: object) -> int:
    """Return how deep lists and dicts are nested; no deeper than :data:`_MAX_DEPTH` is looked."""
    level: list[Any] = [value]
    depth = 0
    while level and depth <= _MAX_DEPTH:
        depth += 1
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list, tuple))
        ]
    return depth


class _AnyVersion(msgspec.Struct):
    format_version: int


_Side = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class _Extent(msgspec.Struct):
    dtype: str
    shape: Annotated[list[_Side], msgspec.Meta(max_length=8)]
    data_offsets: tuple[int, int]


def check_card(card: ModelCard) -> ModelCard:
    """Return the card as it reads back from a file; types and limits hold only after that.

    Raises
    ------
    ModelFileError
        If a field has a wrong type or is out of range.
    """
    what = f"The model card of {card.name}"
    try:
        encoded = msgspec.json.encode(card, order="deterministic")
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise ModelFileError(
            f"{what} cannot be written as JSON: {error}", "Use plain numbers and text"
        ) from error
    return _decode_card(encoded, what)


def read_card(path: str | Path) -> tuple[ModelCard, str]:
    """Read the model card and the SHA-256 of a model file, without taking memory for its weights.

    Raises
    ------
    ModelFileError
        As :func:`load_model`, save for weights that are not finite.
    """
    path = Path(path)
    with open_model_file(path) as file:
        card = card_of(read_header(file, os.fstat(file.fileno()).st_size, path), path)
        file.seek(0)
        digest = hashlib.sha256()
        while chunk := file.read(2**20):
            digest.update(chunk)
    return card, digest.hexdigest()


def open_model_file(path: Path) -> BinaryIO:
    """Open a regular file for reading; a ModelFileError says why it cannot be."""
    try:
        # Before it is opened: opening a pipe waits for somebody to write into it.
        if stat.S_ISREG(path.stat().st_mode):
            return path.open("rb")
    except FileNotFoundError as error:
        raise ModelFileError(f"There is no model file {path}", "Check the path given as --model") from error
    except OSError as error:
        raise ModelFileError(f"{path} cannot be opened: {error.strerror or error}", MAKE_ANOTHER) from error
    raise ModelFileError(f"{path} is a folder or a device, not a file", MAKE_ANOTHER)


def read_header(file: BinaryIO, size: int, path: Path) -> dict[str, str]:
    """Check every declared length against the file's, and return the metadata."""
    if size > MAX_FILE_BYTES:
        raise ModelFileError(
            f"{path} has {size} bytes, more than the {MAX_FILE_BYTES} that a model may have", MAKE_ANOTHER
        )
    start = file.read(16)
    length = int.from_bytes(start[:8], "little")
    if len(start) < 9 or start[8:9] != b"{":
        raise _foreign(path, start)
    if length > MAX_HEADER_BYTES:
        raise ModelFileError(f"{path} declares a header of {length} bytes", MAKE_ANOTHER)
    if 8 + length > size:
        raise ModelFileError(f"{path} is truncated: it ends within its header", COPY_AGAIN)
    file.seek(8)
    try:
        header = msgspec.json.decode(file.read(length), type=dict[str, msgspec.Raw])
        metadata = msgspec.json.decode(header.pop("__metadata__", msgspec.Raw(b"{}")), type=dict[str, str])
        extents = {name: msgspec.json.decode(raw, type=_Extent) for name, raw in header.items()}
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} has a damaged header: {error}", COPY_AGAIN) from error
    _check_extents(extents, size - 8 - length, path)
    return metadata


def card_of(metadata: Mapping[str, str], path: Path) -> ModelCard:
    """Return the card among a file's metadata; `path` names the file in errors."""
    if CARD_KEY not in metadata:
        raise ModelFileError(f"{path} holds weights but no model card of herohe-bridge", MAKE_ANOTHER)
    return _decode_card(metadata[CARD_KEY].encode(), str(path))


def _check_extents(extents: Mapping[str, _Extent], data_bytes: int, path: Path) -> None:
    end = 0
    for name, extent in sorted(extents.items(), key=lambda item: item[1].data_offsets):
        if extent.dtype not in _ITEM_BYTES:
            raise ModelFileError(f"{path}: {name} has the type {extent.dtype}", MAKE_ANOTHER)
        begin, stop = extent.data_offsets
        if begin != end or stop - begin != math.prod(extent.shape) * _ITEM_BYTES[extent.dtype]:
            raise ModelFileError(f"{path} is damaged: {name} does not lie where it must", COPY_AGAIN)
        end = stop
    if end > data_bytes:
        raise ModelFileError(
            f"{path} is truncated: {data_bytes} of {end} bytes of weights are there", COPY_AGAIN
        )
    if end < data_bytes:
        raise ModelFileError(f"{path} has {data_bytes - end} bytes after its weights", COPY_AGAIN)


def _decode_card(data: bytes, what: str) -> ModelCard:
    try:
        version = msgspec.json.decode(data, type=_AnyVersion).format_version
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{what}: the model card cannot be read: {error}", MAKE_ANOTHER) from error
    if not _OLDEST_VERSION <= version <= FORMAT_VERSION:
        side = "herohe-bridge" if version > FORMAT_VERSION else "the model file"
        raise ModelFileError(
            f"{what} has format version {version}; this herohe-bridge reads {_OLDEST_VERSION} to "
            f"{FORMAT_VERSION}",
            f"Update {side}",
        )
    try:
        card = msgspec.json.decode(data, type=ModelCard)
        # Saved again, it is a card of today.
        return msgspec.structs.replace(card, format_version=FORMAT_VERSION)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{what}: the model card is not valid: {error}", MAKE_ANOTHER) from error


def _foreign(path: Path, start: bytes) -> ModelFileError:
    # PyTorch's zip archives, and pickle's protocols 2 to 5.
    if start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return ModelFileError(
            f"{path} is a pickled PyTorch file, which can run code when it is opened",
            "Model files are safetensors: train again, or convert it where you trust it",
        )
    if not start:
        return ModelFileError(f"{path} is empty", COPY_AGAIN)
    return ModelFileError(f"{path} is not a safetensors file", MAKE_ANOTHER)
