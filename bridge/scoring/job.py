"""One slide as a piece of work that may be done anywhere: what it takes, and how it is done.

A job travels to another machine as MessagePack; geometry goes as WKB, which keeps every coordinate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Final

import msgspec
import shapely
from shapely.geometry.base import BaseGeometry

from bridge.annotations.regions import SlideRegions
from bridge.results.schema import SlideResult
from bridge.scoring.feature_cache import FeatureCache
from bridge.scoring.options import ScoreOptions
from bridge.scoring.progress import ProgressCallback
from bridge.scoring.slide import failed_result, score_slide, unmatched_result
from herohe_model.model.score import CompositeScorer, ScoringModel
from herohe_model.slides.guarded_slide import GuardedSlide
from herohe_model.slides.source import SlideSource
from herohe_model.slides.view import SlideView

Opener = Callable[["SlideJob"], AbstractContextManager[SlideSource]]
"""Opens a job's slide where it is not a file."""


class SlideJob(msgspec.Struct, frozen=True, kw_only=True):
    """A slide to be scored.

    Attributes
    ----------
    entry, slide, path
        As they shall stand in the result; see :func:`bridge.scoring.slide.score_slide`.
    file
        The slide's file where the job is done.
    mpp
        µm per level-0 px, overriding the file's; None to use that.
    view
        What of the slide is scored, and in which colours.
    features
        File of the slide's features to score instead of its pixels; "" for none.
    """

    entry: str
    slide: str
    path: str
    file: str
    mpp: float | None
    warnings: tuple[str, ...]
    regions: SlideRegions
    options: ScoreOptions
    view: SlideView = SlideView()
    features: str = ""


@dataclass(frozen=True)
class SlidesElsewhere:
    """Slides below the folder `here` lie below `there` on the workers, in the notation of their system."""

    here: Path
    there: str

    def map(self, file: str) -> str:
        """Return where a worker finds a slide of this machine."""
        path, root = PurePath(file), self.here.absolute()
        if not path.is_relative_to(root):
            return file
        # Windows takes slashes, too.
        return f"{self.there.rstrip('/')}/{path.relative_to(root).as_posix()}"


def score_job(
    job: SlideJob,
    scorer: CompositeScorer,
    *,
    opener: Opener | None = None,
    progress: ProgressCallback | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> SlideResult:
    """Score a slide; whatever goes wrong becomes its outcome. `opener` opens it, by default its file."""

    def score(slide: SlideSource) -> SlideResult:
        features, warnings = None, job.warnings
        if job.features and scorer.head is not None:
            # Reads by HDF5, which who scores pixels does without.
            from bridge.scoring.features_on_disk import FeaturesOnDisk

            features = FeaturesOnDisk(Path(job.features), slide, scorer.info.card, scorer.head)
            warnings = (*warnings, features.warning)
        return score_slide(
            slide,
            job.regions,
            job.options,
            scorer,
            entry=job.entry,
            slide=job.slide,
            path=job.path,
            warnings=warnings,
            cache=FeatureCache(),
            features=features,
            progress=progress,
            cancelled=cancelled,
        )

    return _opened(job, opener, score)


def unmatched_job(job: SlideJob, model: ScoringModel, opener: Opener | None = None) -> SlideResult:
    """Return the result of a slide that no annotation matches; whatever goes wrong becomes its outcome."""
    return _opened(
        job,
        opener,
        lambda slide: unmatched_result(
            slide,
            job.regions,
            job.options,
            model,
            entry=job.entry,
            slide=job.slide,
            path=job.path,
            warnings=job.warnings,
        ),
    )


def _opened(
    job: SlideJob, opener: Opener | None, result_of: Callable[[SlideSource], SlideResult]
) -> SlideResult:
    try:
        with (opener or _file)(job) as slide:
            return result_of(slide)
    except Exception as error:
        return failed_result(error, entry=job.entry, slide=job.slide, path=job.path)


@contextmanager
def _file(job: SlideJob) -> Iterator[SlideSource]:
    with GuardedSlide(job.file, mpp=job.mpp) as slide:
        yield job.view.of(slide)


def encode_job(job: SlideJob) -> bytes:
    """Return a job as it travels."""
    return _ENCODER.encode(job)


def decode_job(data: bytes) -> SlideJob:
    """Read a job. Raises :class:`msgspec.MsgspecError` if it is none."""
    return _DECODER.decode(data)


def _to_wkb(value: object) -> bytes:
    if isinstance(value, BaseGeometry):
        wkb: bytes = shapely.to_wkb(value, byte_order=1)
        return wkb
    raise NotImplementedError(f"a {type(value).__name__} does not travel")


def _from_wkb(kind: type, value: object) -> object:
    if kind is BaseGeometry and isinstance(value, bytes):
        return shapely.from_wkb(value)
    raise NotImplementedError(f"a {kind.__name__} does not travel")


_ENCODER: Final = msgspec.msgpack.Encoder(enc_hook=_to_wkb)
_DECODER: Final = msgspec.msgpack.Decoder(SlideJob, dec_hook=_from_wkb)
