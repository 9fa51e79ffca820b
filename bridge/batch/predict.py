"""Slides become a submission file, scored as everywhere; nothing is written into the collection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from bridge.batch.executor import SlideExecutor
from bridge.batch.options import BatchOptions
from bridge.batch.run import BatchSummary, Listener, run_batch_on
from bridge.projects.base import Collection, Entry, EntryContent
from bridge.results.predictions import read_predictions
from bridge.results.schema import Outcome, SlideResult
from bridge.scoring.options import WriteOptions
from bridge.writing.plan import WrittenObjects
from herohe_model.dataset.cases import case_id
from herohe_model.dataset.predictions import Predictions, some
from herohe_model.dataset.submission import HardSpelling, Submission, write_submission
from herohe_model.errors import CancelledError, OptionError


def predict_slides(
    collection: Collection,
    executor: SlideExecutor,
    options: BatchOptions,
    *,
    submission: Path,
    spelling: HardSpelling = "hard_prediction",
    listener: Listener,
    restart: bool = False,
    cancelled: Callable[[], bool],
) -> tuple[Predictions, BatchSummary]:
    """Score all slides and write a submission; a run that was stopped goes on from where it was.

    Parameters
    ----------
    submission
        Written when all slides were looked at. The batch's results and manifest lie in a folder beside it,
        see :func:`results_folder`.

    Returns
    -------
    predictions, summary
        What was written, with slides without a prediction in ``not_scored``; and how the batch ended.

    Raises
    ------
    OptionError
        If two slides are of one case.
    CancelledError
        When `cancelled` said so before the end; there is no submission then.
    """
    names = Counter(case_id(entry.name) for entry in collection.entries())
    twice = [name for name, times in names.items() if times > 1]
    if twice:
        raise OptionError(
            f"Several slides of {collection.root} are of the case {some(twice)}", "Keep one a case"
        )
    folder = results_folder(submission)
    summary = run_batch_on(
        executor,
        _ReadOnly(collection),
        options,
        output=folder,
        listener=listener,
        restart=restart,
        cancelled=cancelled,
    )
    if Outcome.CANCELLED in summary.outcomes:
        raise CancelledError(
            f"Predicting was stopped; {submission} is not written", "Give the same command again to go on"
        )
    predictions = read_predictions(folder / "results.json")
    write_submission(
        submission,
        Submission(predictions.case_ids, predictions.p_positive, predictions.called),
        spelling=spelling,
    )
    return predictions, summary


def results_folder(submission: Path) -> Path:
    """Return the folder of a submission's ``results.json``, which knows each composite and patch."""
    return submission.with_name(f"{submission.stem}-results")


class _ReadOnly:
    """A collection whose slides are read, and that stays as it is."""

    def __init__(self, collection: Collection) -> None:
        self._of = collection

    @property
    def root(self) -> Path:
        return self._of.root

    @property
    def warnings(self) -> tuple[str, ...]:
        return ()

    def entries(self) -> Sequence[Entry]:
        return self._of.entries()

    def read(self, entry: Entry) -> EntryContent:
        return self._of.read(entry)

    def write(self, entry: Entry, result: SlideResult, options: WriteOptions) -> None:
        pass

    def written_objects(self, entry: Entry) -> WrittenObjects:
        return self._of.written_objects(entry)

    def clear(self, entry: Entry) -> bool:
        return False

    def close(self) -> None:
        self._of.close()
