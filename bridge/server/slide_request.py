"""``score_slide`` in the server: one slide in a thread of its own, its composites in the common queue.

The thread opens the slide (or asks the client for its pixels), converts the regions, once, and calls the same
:func:`bridge.scoring.slide.score_slide` as the command line.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import zmq
from numpy.typing import NDArray

from bridge.annotations.geojson import annotations_from_geojson
from bridge.annotations.regions import Annotation, SlideRegions, build_regions
from bridge.annotations.transform import SlideTransform
from bridge.protocol.codec import Refusal
from bridge.protocol.messages import (
    ErrorReply,
    Pixels,
    ProgressReply,
    Read,
    ReadBox,
    Result,
    ScoreSlide,
    SlideOrigin,
)
from bridge.qupath.image_source import (
    ImageSource,
    frame_of,
    parse_builder,
    upright_frame,
    view_of,
)
from bridge.scoring.feature_cache import FeatureCache
from bridge.scoring.progress import Progress
from bridge.scoring.slide import score_slide
from bridge.server.frontend import SendReply
from bridge.server.remote_slide import RemoteSlide, decode_image, turned
from bridge.writing.for_script import plan_for_script
from herohe_model.errors import (
    CancelledError,
    HeroheError,
    SlideError,
    SlideNotFoundError,
    SlideUnreadableError,
)
from herohe_model.model.score import CompositeScorer
from herohe_model.slides.guarded_slide import GuardedSlide
from herohe_model.slides.source import SlideSource
from herohe_model.slides.view import ICC_WARNING

_POLL_S: Final = 0.1
_PIXELS_S: Final = 300.0
"""How long a client may take to answer a ``read``."""


@dataclass(eq=False)
class _Question:
    """A ``read`` that waits for its ``pixels``."""

    read: Read
    answer: Future[tuple[Pixels, list[zmq.Frame]]] = field(default_factory=Future)


class SlideRequest:
    """One ``score_slide``. Made and used by the polling thread, except where it says otherwise.

    Parameters
    ----------
    regions
        GeoJSON, possibly empty.
    paths
        Decides whether the client may name a file; raises a HeroheError.
    say
        Sends ``read``; called from the slide's thread.
    end
        Called once from the slide's thread with the last reply.
    """

    def __init__(
        self,
        request: ScoreSlide,
        regions: bytes,
        *,
        paths: Callable[[Path], None],
        say: SendReply,
        end: SendReply,
    ) -> None:
        self.request = request
        self._regions = regions
        self._check_path = paths
        self._say = say
        self._end = end
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        self._questions: dict[int, _Question] = {}
        self._asked = 0
        self._progress: Progress | None = None
        self.started = False

    def start(self, scorer: CompositeScorer) -> None:
        """Begin, in a thread that does not keep the process alive."""
        self.started = True
        thread = threading.Thread(
            target=self._run, args=(scorer,), name=f"slide {self.request.id}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            # The system gives no more threads, for now.
            self._end(ErrorReply(id=self.request.id, code="busy", problem=str(error), remedy="Try again"))

    def cancel(self) -> None:
        """Stop within one composite; a slide that was never started ends here."""
        self._cancelled.set()
        if not self.started:
            self._end(ErrorReply.of(CancelledError("The request was cancelled"), id=self.request.id))

    def progress(self) -> ProgressReply:
        """How far it is."""
        now = self._progress
        if now is None:
            return ProgressReply(id=self.request.id, stage="waiting", done=0, total=1)
        return ProgressReply(id=self.request.id, stage=now.stage, done=now.done, total=now.total)

    def open_reads(self) -> list[Read]:
        """Return the questions without an answer, for a client that came back."""
        with self._lock:
            return [question.read for question in self._questions.values()]

    def take_pixels(self, pixels: Pixels, frames: list[zmq.Frame]) -> None:
        """Take in the answer to a ``read``.

        Raises
        ------
        Refusal
            If it fits none.
        """
        with self._lock:
            question = self._questions.get(pixels.read)
            if question is None:
                raise Refusal("unknown_request", f"Nothing was asked by read {pixels.read}", id=pixels.id)
            wanted = [(box.out_height, box.out_width, 3) for box in question.read.boxes]
            if not pixels.problem and [image.shape for image in pixels.images] != wanted:
                problem = f"The images for read {pixels.read} have not the shapes that were asked for"
                raise Refusal("malformed", problem, id=pixels.id)
            del self._questions[pixels.read]
        question.answer.set_result((pixels, frames))

    def _run(self, scorer: CompositeScorer) -> None:
        id = self.request.id
        try:
            self._end(*self._score(scorer))
        except HeroheError as error:
            self._end(ErrorReply.of(error, id=id))
        except Exception as error:
            problem = f"{self.request.slide}: unexpected {type(error).__name__}: {error}"
            self._end(ErrorReply(id=id, code="internal", problem=problem, remedy="Please report it"))

    def _score(self, scorer: CompositeScorer) -> tuple[Result, list[bytes]]:
        request = self.request
        with ExitStack() as stack:
            source, transform, warnings = self._open(stack)
            drawn = self._annotations(transform)
            result = score_slide(
                source,
                self._sampling_regions(drawn, source),
                request.options,
                scorer,
                entry=request.entry,
                slide=request.slide,
                path=request.path or request.slide,
                warnings=warnings,
                # Of pixels that a client sends, it is only the client's word whose they are.
                cache=None if isinstance(source, RemoteSlide) else FeatureCache(),
                progress=self._note,
                cancelled=self._cancelled.is_set,
            )
        frames = [msgspec.json.encode(result)]
        if request.write is not None and request.source is not None:
            frames.append(plan_for_script(result, request.write, drawn, transform))
        return Result(id=request.id, slide=SlideOrigin(transform.x0, transform.y0)), frames

    def _note(self, progress: Progress) -> None:
        self._progress = progress

    def _open(self, stack: ExitStack) -> tuple[SlideSource, SlideTransform, tuple[str, ...]]:
        """Open the file, or else the client's image; with where that one's pixels lie."""
        request, source = self.request, self.request.source
        image: ImageSource | None = None
        why = ""
        try:
            if request.builder is not None:
                image = parse_builder(request.builder, request.slide)
            if request.path is not None:
                return *self._open_file(Path(request.path), image, stack), ()
        except SlideError as error:
            if source is None:
                raise
            why = str(error)
        assert source is not None
        notes = [f"The pixels came from QuPath, not from the slide's file. {why}"] if why else []
        if image is None:
            at = (source.origin_x, source.origin_y)
            transform = SlideTransform.at(*at, source.width, source.height)
            remote = RemoteSlide(source, self._fetch, mpp=request.options.mpp)
            return remote, transform, tuple(notes)
        transform = upright_frame(image, source.width, source.height)
        box = transform.box
        upright = msgspec.structs.replace(source, width=box.width, height=box.height)
        remote = RemoteSlide(upright, turned(self._fetch, transform), mpp=request.options.mpp)
        notes += [ICC_WARNING] if image.icc else []
        return remote, transform, tuple(notes)

    def _open_file(
        self, path: Path, image: ImageSource | None, stack: ExitStack
    ) -> tuple[SlideSource, SlideTransform]:
        """Open the client's file, as the client shows it. Raises SlideError if it is another image."""
        request, source = self.request, self.request.source
        self._check_path(path)
        slide = stack.enter_context(GuardedSlide(path, mpp=request.options.mpp))
        if image is not None:
            transform = frame_of(image, slide, request.slide)
            shown = view_of(image, transform, request.slide).of(slide)
        else:
            box = slide.bounds
            transform, shown = SlideTransform.at(box.x, box.y, box.width, box.height), slide
        if source is not None and (source.width, source.height) != (transform.width, transform.height):
            raise SlideError(
                f"{path} holds {transform.width} x {transform.height} px, QuPath shows another image of it"
            )
        return shown, transform

    def _annotations(self, transform: SlideTransform) -> tuple[Annotation, ...]:
        """Convert the regions to level-0 px of the slide."""
        if not self._regions.strip():
            return ()
        source = f"The regions of {self.request.slide}"
        if transform.is_upright:
            return annotations_from_geojson(self._regions, (transform.x0, transform.y0), source=source)
        drawn = annotations_from_geojson(self._regions, (0, 0), source=source)
        return tuple(replace(item, geometry=transform.to_slide(item.geometry)) for item in drawn)

    def _sampling_regions(self, drawn: Sequence[Annotation], source: SlideSource) -> SlideRegions:
        request = self.request
        return build_regions(
            drawn,
            region_classes=request.region_classes if request.sample == "classes" else (),
            exclude_classes=request.exclude_classes,
            slide_box=source.bounds,
            everything=request.sample == "all",
            check=self._check_cancelled,
        )

    def _check_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise CancelledError(f"Scoring of {self.request.slide} was cancelled")

    def _fetch(self, boxes: Sequence[ReadBox]) -> list[NDArray[np.uint8]]:
        """Ask the client for boxes and wait; runs in the slide's thread."""
        source = self.request.source
        assert source is not None
        with self._lock:
            self._asked += 1
            read = Read(id=self.request.id, read=self._asked, boxes=tuple(boxes), encoding=source.encoding)
            question = self._questions[self._asked] = _Question(read)
        self._say(read)
        until = time.monotonic() + _PIXELS_S
        while not question.answer.done():
            self._check_cancelled()
            if time.monotonic() > until:
                raise SlideUnreadableError(
                    f"{source.name}: the client did not send pixels within {_PIXELS_S:.0f} s", "Try it again"
                )
            _wait(question.answer)
        pixels, frames = question.answer.result()
        if pixels.problem:
            raise SlideUnreadableError(
                f"{source.name}: the client cannot read it ({pixels.problem})",
                "Open the slide in QuPath and look",
            )
        return [
            decode_image(image, frame.buffer, source.name)
            for image, frame in zip(pixels.images, frames, strict=True)
        ]


def _wait(answer: Future[tuple[Pixels, list[zmq.Frame]]]) -> None:
    try:
        answer.result(timeout=_POLL_S)
    except FutureTimeoutError:
        return


def paths_below(roots: Sequence[Path]) -> Callable[[Path], None]:
    """Return the check for clients of other machines: only slides below `roots` may be named."""

    def check(path: Path) -> None:
        resolved = path.resolve()
        if not any(resolved.is_relative_to(root.resolve()) for root in roots):
            raise SlideNotFoundError(
                f"{path} is not in a folder that this server shares",
                "Start it with --slides-root, or send pixels",
            )

    return check


def any_path(_: Path) -> None:
    """Let every file be named: the client is the server's own user."""
