"""Many slides: a file of features each, one outcome each, whatever happens to the others.

Entries are read by the calling thread alone (QuPath's classes live there). A file is there whole or not at
all, so a run that was killed goes on from the files that are there.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, Protocol

from bridge.batch.entry import read_entry
from bridge.extraction.slide import (
    ExtractionOptions,
    PatchProgress,
    SlideWork,
    extract_slide,
    work_digest,
)
from bridge.projects.base import Collection, Entry
from bridge.results.schema import Outcome
from bridge.scoring.slide import failed_result
from herohe_model.dataset.cases import case_id
from herohe_model.encoders.golden import RECORD_NAME, check_record, read_record, write_record
from herohe_model.engines.embedder import Embedder
from herohe_model.errors import CancelledError, OptionError
from herohe_model.features.read import read_facts
from herohe_model.features.schema import FeatureFileError
from herohe_model.model.card import USUAL_THRESHOLD
from herohe_model.run_lock import only_run
from herohe_model.slides.guarded_slide import GuardedSlide

_POLL_S: Final = 0.25
_UNSAFE: Final = re.compile(r'[\x00-\x1f<>:"\\|?*]')
"""What some file system takes in no name."""

EXTRACTED: Final = "extracted"
"""The outcome of a slide whose features are there; others are those of scoring."""


@dataclass(frozen=True)
class ExtractedSlide:
    """How a slide ended.

    Attributes
    ----------
    outcome
        ``extracted``, or the value of an :class:`~bridge.results.schema.Outcome`.
    reused
        Whether its file was there already.
    """

    slide: str
    outcome: str
    patches: int = 0
    message: str = ""
    warnings: tuple[str, ...] = ()
    reused: bool = False


@dataclass(frozen=True)
class ExtractionSummary:
    """How a run ended: slides by outcome, and of them those whose files were there already."""

    outcomes: dict[str, int]
    reused: int

    @property
    def exit_code(self) -> int:
        """0 when all were extracted or rightly skipped; 1 otherwise, or when nothing matched."""
        left = {outcome for outcome in self.outcomes if outcome != EXTRACTED}
        failed = any(Outcome(outcome).is_failure for outcome in left)
        nothing = (
            bool(self.outcomes)
            and left == self.outcomes.keys()
            and left
            <= {
                Outcome.UNSUITABLE.value,
                Outcome.NO_MATCHING_ANNOTATION.value,
            }
        )
        return int(failed or nothing)


class ExtractionListener(Protocol):
    """Who is told how a run goes; called from the run's own thread."""

    def started(self, total: int) -> None:
        """Tell that this many slides are to be done."""

    def running(self, slides: Sequence[tuple[str, PatchProgress]]) -> None:
        """Tell how far the running slides are, with their names; several times a second."""

    def finished(self, slide: ExtractedSlide) -> None:
        """Tell the outcome of one slide."""


def feature_path(output: Path, slide: str) -> Path:
    """Return where the features of a slide go: its name without the extension, in its folder."""
    parts = [part for part in PurePosixPath(case_id(slide)).parts if part not in ("/", "..", ".")]
    plain = [_UNSAFE.sub("_", part).strip() or "_" for part in parts or ["_"]]
    return output.joinpath(*plain[:-1], f"{plain[-1]}.h5")


def extract_features(
    collection: Collection,
    embedder: Embedder,
    options: ExtractionOptions,
    *,
    output: Path,
    listener: ExtractionListener,
    restart: bool = False,
    cancelled: Callable[[], bool] = lambda: False,
) -> ExtractionSummary:
    """Extract the features of every slide of a collection; a slide's error is its outcome.

    Parameters
    ----------
    output
        The folder of the files, made when absent. Those that are there and were made alike are kept.
    restart
        Replace files of ours that were made otherwise.
    cancelled
        A true answer ends the run within a batch of patches; whole files stay.

    Raises
    ------
    HeroheError
        If the folder or the collection as a whole cannot be used, or the folder is another encoder's.
    """
    entries = list(collection.entries())
    paths = {entry.id: feature_path(output, entry.name) for entry in entries}
    # As file systems that know no capitals see them.
    names = Counter(str(path).casefold() for path in paths.values())
    twice = sorted(entry.name for entry in entries if names[str(paths[entry.id]).casefold()] > 1)
    if twice:
        raise OptionError(
            f"Several slides would have one file of features: {', '.join(twice[:5])}",
            "Give them names of their own, or extract them into folders of their own",
        )
    with only_run(output):
        _check_folder(output, embedder, restart=restart)
        run = _Run(embedder, options, paths, listener, cancelled, restart)
        try:
            return run.all(collection, entries)
        finally:
            collection.close()


def _check_folder(output: Path, embedder: Embedder, *, restart: bool) -> None:
    """Refuse a folder of another encoder; write down which it is."""
    path, record = output / RECORD_NAME, embedder.info.record
    if path.exists() and not restart:
        check_record(record, read_record(path), str(output))
    else:
        write_record(path, record)


class _Run:
    """The state of one run of :func:`extract_features`."""

    def __init__(
        self,
        embedder: Embedder,
        options: ExtractionOptions,
        paths: dict[str, Path],
        listener: ExtractionListener,
        cancelled: Callable[[], bool],
        restart: bool,
    ) -> None:
        self._embedder = embedder
        self._options = options
        self._paths = paths
        self._listener = listener
        self._cancelled = cancelled
        self._restart = restart
        self._stop = threading.Event()
        self._progress: dict[str, tuple[str, PatchProgress]] = {}
        self._outcomes: Counter[str] = Counter()
        self._reused = 0

    def all(self, collection: Collection, entries: Sequence[Entry]) -> ExtractionSummary:
        """Extract every entry."""
        self._listener.started(len(entries))
        running: set[Future[ExtractedSlide]] = set()
        left = list(reversed(entries))
        with ThreadPoolExecutor(self._options.batch.slides_at_once, "herohe-extract") as pool:
            try:
                while left or running:
                    if self._cancelled():
                        self._stop.set()
                    room = len(running) < self._options.batch.slides_at_once
                    if left and (room or self._stop.is_set()):
                        begun = self._begin(collection, left.pop(), pool)
                        if begun is not None:
                            running.add(begun)
                    else:
                        done, running = wait(running, timeout=_POLL_S, return_when=FIRST_COMPLETED)
                        for future in done:
                            self._finish(future.result())
                    self._listener.running(list(self._progress.values()))
            except BaseException:
                self._stop.set()
                raise
        return ExtractionSummary(dict(self._outcomes), self._reused)

    def _begin(
        self, collection: Collection, entry: Entry, pool: ThreadPoolExecutor
    ) -> Future[ExtractedSlide] | None:
        """Begin a slide, unless its outcome is known already."""
        path = self._paths[entry.id]
        try:
            if self._stop.is_set():
                raise CancelledError("Not begun: the run was cancelled", "Give the same command again")
            content, regions, fingerprint = read_entry(collection, entry, self._options.batch)
            work = SlideWork(
                slide=entry.name,
                name=path.stem,
                regions=regions,
                fingerprint=fingerprint,
                mpp=self._options.batch.score.mpp or content.mpp,
                view=content.view,
            )
            if regions.union is None:
                self._finish(
                    ExtractedSlide(
                        entry.name, Outcome.NO_MATCHING_ANNOTATION.value, message=regions.no_match_message()
                    )
                )
                return None
            known = self._known(work, path)
        except Exception as error:
            self._finish(_failed(error, entry.name))
            return None
        if known is not None:
            self._reused += 1
            self._finish(known)
            return None
        return pool.submit(self._extract, entry.id, content.slide_path, work, path)

    def _known(self, work: SlideWork, path: Path) -> ExtractedSlide | None:
        """Return the outcome of a slide whose file is there.

        Raises
        ------
        FeatureFileError
            If a file is there that must not be replaced.
        """
        if not path.exists():
            return None
        try:
            made = read_facts(path)
        except FeatureFileError:
            if self._restart:
                return None
            raise
        if made.provenance.get("work") == work_digest(work, self._options, self._embedder.info):
            return ExtractedSlide(
                work.slide, _outcome(made.count), made.count, _message(made.count), reused=True
            )
        if "work" not in made.provenance:
            raise FeatureFileError(
                f"{path} is there, and was not made by herohe-bridge", "Name another folder with --output"
            )
        if self._restart:
            return None
        raise FeatureFileError(
            f"{path} was made otherwise: {_difference(made.provenance, work, self._options)}",
            "Replace it with --restart, or name another folder with --output",
        )

    def _extract(self, key: str, slide_path: Path, work: SlideWork, path: Path) -> ExtractedSlide:
        """Extract one slide, in a thread."""

        def progress(now: PatchProgress) -> None:
            self._progress[key] = (work.slide, now)

        try:
            with GuardedSlide(slide_path, mpp=work.mpp) as slide:
                count, warnings = extract_slide(
                    work.view.of(slide),
                    work,
                    self._options,
                    self._embedder,
                    path,
                    progress=progress,
                    stop=self._stop.is_set,
                )
            return ExtractedSlide(work.slide, _outcome(count), count, _message(count), warnings)
        except Exception as error:
            return _failed(error, work.slide)
        finally:
            self._progress.pop(key, None)

    def _finish(self, slide: ExtractedSlide) -> None:
        self._outcomes[slide.outcome] += 1
        self._listener.finished(slide)


def _outcome(count: int) -> str:
    return EXTRACTED if count else Outcome.INSUFFICIENT_TISSUE.value


def _message(count: int) -> str:
    return "" if count else "No patch of the region is foreground; its file holds none."


def _failed(error: Exception, slide: str) -> ExtractedSlide:
    result = failed_result(error, entry=slide, slide=slide)
    return ExtractedSlide(slide, result.outcome.value, message=result.message)


def _difference(made: object, work: SlideWork, options: ExtractionOptions) -> str:
    """Say in what a file's provenance differs, what matters most first."""
    facts = made if isinstance(made, dict) else {}
    # What Otsu's method would find is only known after it has looked.
    threshold = options.batch.score.foreground_threshold
    threshold = USUAL_THRESHOLD if threshold is None else threshold
    threshold = facts.get("foreground_threshold") if threshold == "otsu" else threshold
    now = {
        "slide_fingerprint": (work.fingerprint, "of another slide, or one that changed since"),
        "patch_px": (options.patch_px, f"with patches of {facts.get('patch_px')} px"),
        "mpp": (options.mpp, f"at {facts.get('mpp')} µm/px"),
        "regions_sha256": (work.regions.digest(), "of other regions"),
        "foreground_threshold": (threshold, "with another foreground threshold"),
        "artefacts": (options.batch.score.artefact_rule, "with another --artefacts"),
        "min_coverage": (options.batch.score.min_coverage, "with another --min-coverage"),
    }
    differs = [said for key, (value, said) in now.items() if facts.get(key) != value]
    return differs[0] if differs else "with other options or weights"
