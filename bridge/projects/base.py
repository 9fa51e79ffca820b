"""The face that a QuPath project and a folder of slides with GeoJSON share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from bridge.annotations.regions import Annotation
from bridge.results.schema import SlideResult
from bridge.scoring.options import WriteOptions
from bridge.writing.plan import WrittenObjects
from herohe_model.slides.view import SlideView

if TYPE_CHECKING:
    from bridge.qupath.pixels import QuPathPixels


@dataclass(frozen=True)
class Entry:
    """One image of a collection; ``id`` is stable across runs and unique within the collection."""

    id: str
    name: str


@dataclass(frozen=True)
class EntryContent:
    """What an entry holds when it is read.

    Attributes
    ----------
    slide_path
        The slide's file on this machine; it exists.
    mpp
        µm per level-0 px as the user set it in QuPath, when it differs from the file's; None otherwise.
    annotations
        Everything that a user drew, in its order; nothing that an earlier run of ours wrote.
    written_run
        ``HER2-HE run`` of the result that is completely present in the entry, or None: a result of which
        something is missing (cleared, partly deleted) does not count.
    written_with
        The write options of that result; None without one, and for a result of which the entry holds nothing
        but its outcome.
    image_type
        The name of the type that the image was given in QuPath, such as ``BRIGHTFIELD_H_E``; "" without one.
    view
        What of the slide the image shows, and in which colours.
    pixels
        QuPath's own, where the file is not read here, or otherwise; None to read the file.
    """

    entry: Entry
    slide_path: Path
    mpp: float | None
    annotations: tuple[Annotation, ...]
    written_run: str | None
    written_with: WriteOptions | None = None
    warnings: tuple[str, ...] = field(default=())
    image_type: str = ""
    view: SlideView = field(default_factory=SlideView)
    pixels: QuPathPixels | None = None


class Collection(Protocol):
    """Slides with annotations, that results can be written back into.

    ``read`` remembers the state of the entry's data; ``write`` refuses with
    :class:`~herohe_model.errors.EntryChangedError` if they changed since.
    """

    @property
    def root(self) -> Path:
        """The folder that holds it."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know before writing, such as a QuPath that has the project open."""
        ...

    def entries(self) -> Sequence[Entry]:
        """All entries, in the collection's own order."""
        ...

    def read(self, entry: Entry) -> EntryContent:
        """Read one entry. Raises a HeroheError that names the slide when it cannot be used."""
        ...

    def write(self, entry: Entry, result: SlideResult, options: WriteOptions) -> None:
        """Replace what an earlier run wrote by this result; checked by reading it again.

        The objects that an earlier run wrote stay when the slide could not be scored this time.
        """
        ...

    def written_objects(self, entry: Entry) -> WrittenObjects:
        """Count what is ours in an entry; changes nothing, and needs no slide."""
        ...

    def clear(self, entry: Entry) -> bool:
        """Remove everything we wrote and restore classes; False when there was nothing."""
        ...

    def close(self) -> None:
        """Write what is still to be written for the collection as a whole; may be called twice."""
        ...
