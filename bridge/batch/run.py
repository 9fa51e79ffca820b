"""Many slides: read, score, keep, write back, one outcome each, whatever happens to the others.

Entries are read and written by the calling thread alone (QuPath's classes live there); slides are read and
scored at a :class:`~bridge.batch.executor.SlideExecutor`, by threads here or on other machines. A finished
result is in the manifest before the project is touched, so a run killed at any moment goes on from there.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import msgspec

from bridge.annotations.regions import SlideRegions
from bridge.annotations.unmatched_classes import ClassTally
from bridge.batch.deferred_executor import OtherScorerError
from bridge.batch.entry import opener_of, read_entry, unmatched_classes
from bridge.batch.executor import SlideExecutor, ThreadExecutor
from bridge.batch.options import BatchOptions
from bridge.projects.base import Collection, Entry, EntryContent
from bridge.results.files import ResultFileError, write_csv, write_json
from bridge.results.manifest import MANIFEST_NAME, Manifest, work_key
from bridge.results.schema import Outcome, SlideResult
from bridge.scoring.job import SlideJob, unmatched_job
from bridge.scoring.progress import Progress
from bridge.scoring.slide import failed_result
from herohe_model.errors import CancelledError, HeroheError, SlideFatalError, UnsuitableSlideError
from herohe_model.files import sha256_of
from herohe_model.model.score import CompositeScorer
from herohe_model.printable import printable

_REFRESH_S: Final = 15.0
"""How often the result files are brought up to date while a batch runs, at most."""
_REFRESH_SHARE: Final = 0.05
"""Of a batch's time, at most, goes into that: it writes all results, so each time costs more."""
_POLL_S: Final = 0.25

_log = logging.getLogger(__name__)

_KEPT: Final = (Outcome.SCORED, Outcome.INSUFFICIENT_TISSUE, Outcome.UNSUITABLE)
_WRITTEN: Final = (*_KEPT, Outcome.NO_MATCHING_ANNOTATION)


@dataclass(frozen=True)
class BatchSummary:
    """How a batch ended.

    Attributes
    ----------
    unmatched_regions, unmatched_exclusions
        A sentence for each class to sample in, or to cut out, that no slide has.
    """

    outcomes: dict[Outcome, int]
    reused: int
    written: int
    unmatched_regions: tuple[str, ...] = ()
    unmatched_exclusions: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 when every slide was scored or rightly skipped.

        1 otherwise, when all are unsuitable, or when a class to sample in is on none of them.
        """
        return int(
            any(outcome.is_failure for outcome in self.outcomes)
            or self.outcomes.keys() == {Outcome.UNSUITABLE}
            or bool(self.unmatched_regions)
        )


class Listener(Protocol):
    """Who is told how a batch goes; called from the batch's own thread."""

    def started(self, total: int) -> None:
        """Tell that this many slides are to be done."""

    def running(self, slides: Sequence[tuple[str, Progress]]) -> None:
        """Tell how far the running slides are, with their names; several times a second."""

    def finished(self, result: SlideResult, *, reused: bool) -> None:
        """Tell the outcome of one slide; `reused` when it was known from an earlier run."""


class NullListener:
    """Hears nothing."""

    def started(self, total: int) -> None:
        """Do nothing."""

    def running(self, slides: Sequence[tuple[str, Progress]]) -> None:
        """Do nothing."""

    def finished(self, result: SlideResult, *, reused: bool) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class _Job:
    """A slide on its way: what it is, and where it stands in the collection."""

    position: int
    entry: Entry
    content: EntryContent
    path: str
    key: str


def run_batch(
    collection: Collection,
    scorer: CompositeScorer,
    options: BatchOptions,
    *,
    output: Path,
    listener: Listener | None = None,
    restart: bool = False,
    cancelled: Callable[[], bool] = lambda: False,
) -> BatchSummary:
    """Score every slide of a collection in this process; as :func:`run_batch_on` otherwise."""
    with ThreadExecutor(scorer, options.slides_at_once) as executor:
        return run_batch_on(
            executor,
            collection,
            options,
            output=output,
            listener=listener or NullListener(),
            restart=restart,
            cancelled=cancelled,
        )


def run_batch_on(
    executor: SlideExecutor,
    collection: Collection,
    options: BatchOptions,
    *,
    output: Path,
    listener: Listener,
    restart: bool = False,
    cancelled: Callable[[], bool] = lambda: False,
) -> BatchSummary:
    """Score every slide of a collection and write the results back.

    Parameters
    ----------
    executor
        Where slides are scored.
    output
        Folder of the manifest, ``results.csv`` and ``results.json``; made when absent.
    restart
        Score everything again, whatever the manifest knows.
    cancelled
        A true answer ends the batch within one composite a running slide; what is done stays done, and the
        rest has the outcome ``cancelled``.

    Raises
    ------
    HeroheError
        If the output folder or the collection as a whole cannot be used. A slide's error never is raised.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResultFileError(
            f"The folder {output} cannot be made ({error.strerror or error})",
            "Allow writing there, or name another with --output",
        ) from error
    with Manifest(output / MANIFEST_NAME) as manifest:
        manifest.begin_run(restart=restart)
        return _Batch(executor, collection, options, output, manifest, listener, cancelled).run()


class _Batch:
    """The state of one run of :func:`run_batch_on`."""

    def __init__(
        self,
        executor: SlideExecutor,
        collection: Collection,
        options: BatchOptions,
        output: Path,
        manifest: Manifest,
        listener: Listener,
        cancelled: Callable[[], bool],
    ) -> None:
        self._executor = executor
        self._collection = collection
        self._options = options
        self._output = output
        self._manifest = manifest
        self._listener = listener
        self._cancelled = cancelled
        self._queue: deque[tuple[int, Entry]] = deque()
        self._running: dict[str, _Job] = {}
        self._outcomes: Counter[Outcome] = Counter()
        self._classes = ClassTally()
        self._reused = 0
        self._written = 0
        self._next_refresh = time.monotonic() + _REFRESH_S

    def run(self) -> BatchSummary:
        self._begin()
        queue = self._queue
        try:
            while queue or self._running:
                if self._cancelled():
                    self._executor.cancel()
                hindrance = self._hindrance() if queue else None
                if hindrance is not None:
                    left = [(position, _failed(hindrance, entry)) for position, entry in queue]
                    queue.clear()
                    self._close_slides(*left)
                room = len(self._running) < self._executor.capacity
                if queue and room:
                    self._prepare(*queue.popleft())
                # While there is room, the next entry is read rather than waited.
                for result in self._executor.finished(0.0 if queue and room else _POLL_S):
                    self._finish(self._running.pop(result.entry), result)
                self._listener.running(self._executor.progress())
        except BaseException:
            self._executor.cancel()
            raise
        finally:
            try:
                self._collection.close()
            finally:
                self._write_files()
        return BatchSummary(
            dict(self._outcomes),
            self._reused,
            self._written,
            *unmatched_classes(self._classes, self._options),
        )

    def _begin(self) -> None:
        """Put all slides into the queue, with no outcome yet."""
        self._queue.clear()
        self._queue.extend(enumerate(self._collection.entries()))
        self._outcomes.clear()
        self._classes = ClassTally()
        self._reused = self._written = 0
        self._listener.started(len(self._queue))

    def _hindrance(self) -> HeroheError | None:
        """Return why no slide can be begun any more, if so."""
        if self._cancelled():
            return CancelledError("Not begun: the run was cancelled", "Give the same command again")
        if not self._manifest.path.exists():
            return ResultFileError(
                f"Not begun: {self._output}, which holds this run's results, was taken away while it ran",
                "Bring it back and give the same command again",
            )
        try:
            self._executor.check()
        except HeroheError as error:
            return error
        return None

    def _prepare(self, position: int, entry: Entry) -> None:
        """Read an entry, and begin its slide when its outcome is not already known."""
        fatal = self._manifest.find_fatal(entry.id)
        if fatal is not None:
            self._reused += 1
            self._close_slides((position, fatal), reused=True)
            return
        try:
            content, regions, fingerprint = read_entry(self._collection, entry, self._options)
            self._classes.add(regions.classes_present)
            path = _portable(content.slide_path, self._collection.root)
            features = self._options.features_of(entry.name)
            features_sha256 = (sha256_of(Path(features)) or "") if features else ""
        except UnsuitableSlideError as error:
            self._refuse(position, entry, error)
            return
        except Exception as error:
            result = _failed(error, entry)
            if isinstance(error, SlideFatalError) and error.path:
                result = self._keep_fatal(Path(error.path), result)
            self._close_slides((position, result))
            return
        work = SlideJob(
            entry=entry.id,
            slide=entry.name,
            path=path,
            file=str(content.slide_path.absolute()),
            mpp=self._options.score.mpp or content.mpp,
            warnings=content.warnings,
            regions=regions,
            options=self._options.score,
            view=content.view,
            features=features,
        )
        if regions.union is None:
            unmatched = unmatched_job(work, self._executor.model, opener_of(content))
            self._finish(_Job(position, entry, content, path, key=""), unmatched)
            return
        try:
            # Either may begin what scores, which takes long.
            key = self._work_key(entry, content, path, regions, fingerprint, features_sha256)
            job = _Job(position, entry, content, path, key)
            known = self._manifest.find(key)
            if known is not None:
                self._reused += 1
                self._close_slides((position, self._write_back(job, known)), reused=True)
                return
            self._executor.submit(work, opener_of(content))
        except CancelledError as error:
            self._close_slides((position, _failed(error, entry, path)))
            return
        except OtherScorerError as error:
            # Before the first slide was scored: what was taken for known so far is looked up again.
            _log.info("%s: all slides are looked up again", error.problem)
            self._begin()
            return
        self._running[entry.id] = job

    def _refuse(self, position: int, entry: Entry, error: UnsuitableSlideError) -> None:
        """End a slide that is not what a model is for, and take back what an earlier run wrote."""
        result = _failed(error, entry)
        try:
            self._collection.write(entry, result, self._options.write)
            self._written += 1
        except Exception as failure:
            result = _failed(failure, entry)
        self._close_slides((position, result))

    def _work_key(
        self,
        entry: Entry,
        content: EntryContent,
        path: str,
        regions: SlideRegions,
        fingerprint: str,
        features_sha256: str,
    ) -> str:
        """Digest what decides a slide's result."""
        scored_by = self._executor.info
        return work_key(
            {
                "entry": entry.id,
                "slide": entry.name,
                "path": path,
                "fingerprint": fingerprint,
                "warnings": content.warnings,
                "mpp": content.mpp,
                "view": msgspec.to_builtins(content.view),
                "regions": regions.digest(),
                "model": scored_by.model_sha256,
                "device": scored_by.device,
                "precision": scored_by.precision,
                "engine": scored_by.engine,
                "options": msgspec.to_builtins(self._options.score),
                **({"features": features_sha256} if features_sha256 else {}),
            }
        )

    def _finish(self, job: _Job, result: SlideResult) -> None:
        if result.outcome in _KEPT:
            self._manifest.keep(job.key, result)
        if result.error_code == SlideFatalError.code:
            result = self._keep_fatal(job.content.slide_path, result)
        self._close_slides((job.position, self._write_back(job, result)))

    def _keep_fatal(self, file: Path, result: SlideResult) -> SlideResult:
        """Remember a slide that is not to be read again, and say so."""
        said = f"{result.message} It is not tried again before the file changes, or with --restart."
        result = msgspec.structs.replace(result, message=said)
        self._manifest.keep_fatal(file, result)
        return result

    def _write_back(self, job: _Job, result: SlideResult) -> SlideResult:
        """Bring the collection up to date; an error becomes the slide's outcome."""
        run = result.provenance.run if result.provenance else None
        there = job.content.written_run == run and job.content.written_with == self._options.write
        if result.outcome not in _WRITTEN or there:
            return result
        try:
            self._collection.write(job.entry, result, self._options.write)
        except Exception as error:
            return _failed(error, job.entry, job.path)
        self._written += 1
        return result

    def _close_slides(self, *found: tuple[int, SlideResult], reused: bool = False) -> None:
        """End slides, each given with its position: thousands in one go where none of them was begun."""
        self._manifest.report(*found)
        for _, result in found:
            self._outcomes[result.outcome] += 1
            self._listener.finished(result, reused=reused)
        if time.monotonic() > self._next_refresh:
            self._write_files()

    def _write_files(self) -> None:
        began = time.monotonic()
        write_csv(self._output / "results.csv", self._manifest.reported())
        write_json(self._output / "results.json", self._manifest.reported(), collection=self._collection.root)
        ended = time.monotonic()
        self._next_refresh = ended + max(_REFRESH_S, (ended - began) / _REFRESH_SHARE)


def _failed(error: Exception, entry: Entry, path: str = "") -> SlideResult:
    return failed_result(error, entry=entry.id, slide=entry.name, path=path)


def _portable(path: Path, root: Path) -> str:
    """Return a path relative to the collection where it lies below it, with forward slashes."""
    resolved, base = path.resolve(), root.resolve()
    return printable(
        resolved.relative_to(base).as_posix() if resolved.is_relative_to(base) else str(resolved)
    )
