"""The messages between clients and the model server as typed values.

What they mean and how they travel is said in :mod:`bridge.protocol.codec`.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec

from bridge.scoring.options import ScoreOptions, WriteOptions
from herohe_model.errors import HeroheError, RemoteError
from herohe_model.model.bag_model import MAX_BYTES
from herohe_model.model.score import Embeds

PROTOCOL: Final = 1

MAX_HEADER_BYTES: Final = 1 << 20
MAX_HOPS: Final = 8
MAX_COMPOSITES: Final = 16
MAX_SIDE_PX: Final = 8192
MAX_REGIONS_BYTES: Final = 64 << 20
MAX_READ_BOXES: Final = 64
MAX_ERROR_CHARACTERS: Final = 2000
MAX_READ_BYTES: Final = 64 << 20
"""Raw size of all images of one ``pixels`` message."""

Id = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.:-]{1,64}$")]
Text = Annotated[str, msgspec.Meta(max_length=4096)]
Texts = Annotated[tuple[Text, ...], msgspec.Meta(max_length=1000)]
Side = Annotated[int, msgspec.Meta(ge=1, le=MAX_SIDE_PX)]
Shape = tuple[Side, Side, Literal[3]]
Natural = Annotated[int, msgspec.Meta(ge=0, le=2**31)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=2**31)]
Coordinate = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31)]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?$")]
Encoding = Literal["raw", "png", "jpeg"]


class ArrayHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Shape and type of one composite."""

    shape: Shape
    dtype: Literal["uint8"] = "uint8"


class ImageHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Shape of one box's pixels, and how its frame holds them."""

    shape: Shape
    encoding: Encoding = "raw"


class PixelSource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An image whose pixels the client has; see the module's docstring."""

    name: Text
    width: Positive
    height: Positive
    mpp: Annotated[float, msgspec.Meta(ge=0.01, le=100.0)] | None = None
    level_downsamples: Annotated[
        tuple[Annotated[float, msgspec.Meta(ge=1.0, le=65536.0)], ...], msgspec.Meta(max_length=64)
    ] = (1.0,)
    background: tuple[
        Annotated[int, msgspec.Meta(ge=0, le=255)],
        Annotated[int, msgspec.Meta(ge=0, le=255)],
        Annotated[int, msgspec.Meta(ge=0, le=255)],
    ] = (255, 255, 255)
    origin_x: Coordinate = 0
    origin_y: Coordinate = 0
    fingerprint: Text = ""
    encoding: Encoding = "raw"

    def __post_init__(self) -> None:
        """Refuse levels that are no pyramid."""
        levels = self.level_downsamples
        if not levels or levels[0] != 1.0 or list(levels) != sorted(levels):
            raise ValueError("level_downsamples must ascend from 1.0")


class _Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """What every request has."""

    protocol: int = PROTOCOL
    id: Id
    token: Annotated[str, msgspec.Meta(max_length=256)] = ""
    interim: bool = True


class Hello(_Request, frozen=True, kw_only=True, tag="hello"):
    """Ask who the server is."""

    client: Text = ""
    version: Text = ""


class ScoreComposites(_Request, frozen=True, kw_only=True, tag="score_composites"):
    """Score composites; they follow as frames."""

    composites: Annotated[tuple[ArrayHeader, ...], msgspec.Meta(min_length=1, max_length=MAX_COMPOSITES)]
    model_sha256: Sha256 = ""
    deadline_s: Annotated[float, msgspec.Meta(gt=0, le=604800)] | None = None


class ScoreSlide(_Request, frozen=True, kw_only=True, tag="score_slide"):
    """Score a slide inside the regions of the one frame that follows."""

    slide: Text
    entry: Text = ""
    path: Text | None = None
    source: PixelSource | None = None
    sample: Literal["all", "classes", "slide"] = "all"
    region_classes: Texts = ()
    exclude_classes: Texts = ()
    builder: dict[str, Any] | None = None
    options: ScoreOptions = ScoreOptions()
    write: WriteOptions | None = None
    model_sha256: Sha256 = ""

    def __post_init__(self) -> None:
        """Refuse a request that cannot be meant."""
        if self.path is None and self.source is None:
            raise ValueError("score_slide needs a path, a source, or both")
        if self.sample == "classes" and not self.region_classes:
            raise ValueError('sample "classes" needs region_classes')
        if self.write is not None and self.source is None:
            raise ValueError("write needs a source: the size of the client's image")


class Pixels(_Request, frozen=True, kw_only=True, tag="pixels"):
    """Answer a ``read``."""

    request: Id
    read: Natural
    images: Annotated[tuple[ImageHeader, ...], msgspec.Meta(max_length=MAX_READ_BOXES)] = ()
    problem: Text = ""


class Cancel(_Request, frozen=True, kw_only=True, tag="cancel"):
    """Stop a request."""

    request: Id


class StatusRequest(_Request, frozen=True, kw_only=True, tag="status"):
    """Ask how busy the server is."""


class ModelFile(_Request, frozen=True, kw_only=True, tag="model_file"):
    """Ask for the file of a bag model, whose head the client needs."""


class Stop(_Request, frozen=True, kw_only=True, tag="stop"):
    """End the server."""

    finish: bool = False


Request = Hello | ScoreComposites | ScoreSlide | Pixels | Cancel | StatusRequest | ModelFile | Stop


class _Reply(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """What every reply has."""

    protocol: int = PROTOCOL
    id: str


class WorkerInfo(msgspec.Struct, frozen=True):
    """One model worker. ``state`` is loading, ready or failed; ``restarts`` counts replacements."""

    device: str
    state: Literal["loading", "ready", "failed"]
    pid: int
    in_work: int
    scored: int
    restarts: int


class Load(msgspec.Struct, frozen=True):
    """How busy the server is: composites waiting, in work and done, slides running, requests open."""

    uptime_s: float
    requests: int
    queued: int
    in_work: int
    scored: int
    slides: int


class Limits(msgspec.Struct, frozen=True):
    """What a client must keep to. ``in_flight`` counts its composites without an answer."""

    in_flight: int
    composites: int = MAX_COMPOSITES
    header_bytes: int = MAX_HEADER_BYTES
    regions_bytes: int = MAX_REGIONS_BYTES


class Info(_Reply, frozen=True, kw_only=True, tag="info"):
    """The server, its model and its load.

    ``instance`` changes with every start; ``card`` is the model card; ``paths`` says whether this client may
    name files; ``engine`` is what computes, and its version; ``embeds``, of a bag model, what embeds patches.
    """

    version: str
    instance: str
    pid: int
    model: str
    model_sha256: str
    card: dict[str, Any]
    device: str
    precision: str
    paths: bool
    limits: Limits
    load: Load
    workers: tuple[WorkerInfo, ...] = ()
    engine: str = ""
    embeds: Embeds | None = None


class Heartbeat(_Reply, frozen=True, kw_only=True, tag="heartbeat"):
    """The request is being worked on."""


class ProgressReply(_Reply, frozen=True, kw_only=True, tag="progress"):
    """How far a slide is."""

    stage: Literal["waiting", "foreground", "composites", "patches"]
    done: int
    total: int


class ReadBox(msgspec.Struct, frozen=True):
    """A box in level-0 px of the client's image, and the size that its pixels are wanted in."""

    x: int
    y: int
    width: int
    height: int
    out_width: int
    out_height: int


class Read(_Reply, frozen=True, kw_only=True, tag="read"):
    """Ask the client for pixels."""

    read: int
    boxes: tuple[ReadBox, ...]
    encoding: Encoding = "raw"


class Scores(msgspec.Struct, frozen=True):
    """Shapes of the frames: logits (composites, bits), contributions (composites, cells, bits).

    Of an ensemble, its members' logits follow: (composites, members, bits). Of a bag model, which gets
    columns of patches, the cells are the patches, and the bits their features.
    """

    composites: Annotated[int, msgspec.Meta(ge=1, le=MAX_COMPOSITES)]
    cells: Annotated[int, msgspec.Meta(ge=1, le=256)]
    bits: Annotated[int, msgspec.Meta(ge=1, le=65_536)]
    members: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1


class SlideOrigin(msgspec.Struct, frozen=True):
    """Where the image's (0, 0) lies on the slide, level-0 px."""

    origin_x: int
    origin_y: int


class Result(_Reply, frozen=True, kw_only=True, tag="result"):
    """What was asked for, or an acknowledgement; ``file`` is the size of a model's file, 0 for none."""

    scores: Scores | None = None
    slide: SlideOrigin | None = None
    file: Annotated[int, msgspec.Meta(ge=0, le=MAX_BYTES)] = 0


class ErrorReply(_Reply, frozen=True, kw_only=True, tag="error"):
    """What is wrong, and what to do."""

    code: str
    problem: str
    remedy: str = ""

    @classmethod
    def of(cls, error: HeroheError, *, id: str) -> ErrorReply:
        """Turn an error of the tree into a reply."""
        code = error.remote_code if isinstance(error, RemoteError) else error.code
        return cls(id=id, code=code, problem=error.problem, remedy=error.remedy)

    def presentable(self) -> ErrorReply:
        """Return it as it may travel and be shown: a few lines at most, without control characters.

        What was sent is repeated in errors, and may be of any length and kind.
        """
        return msgspec.structs.replace(
            self,
            id=self.id if len(self.id) <= 64 else "",
            problem=_presentable(self.problem),
            remedy=_presentable(self.remedy),
        )


def _presentable(text: str) -> str:
    if len(text) > MAX_ERROR_CHARACTERS:
        half = MAX_ERROR_CHARACTERS // 2
        text = f"{text[:half]} ... {text[-half:]}"
    # Unprintable are control characters and what ends no text in UTF-8; a line's end alone is harmless.
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


Reply = Info | Heartbeat | ProgressReply | Read | Result | ErrorReply
