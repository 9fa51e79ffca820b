"""Slides of a batch on a dask cluster: workers hold the model, this process alone writes results.

Dask finds a worker for each slide, and another one when that dies. The driver keeps a bounded number of
slides in dask's hands, fetches their results, and decides what becomes of a slide that its workers do not
survive, or that a worker cannot read. Everything here runs in the batch's thread; dask's own threads only put
what ended into a queue.
"""

from __future__ import annotations

import logging
import queue
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final

import msgspec

from bridge import __version__
from bridge.cluster.connect import ClusterAddress, ClusterError, connect, gather_workers
from bridge.cluster.messages import (
    TOPIC,
    ModelMissing,
    Rejected,
    RunSpec,
    Scored,
    decode_answer,
    decode_step,
    encode,
)
from bridge.cluster.registry import WorkerRegistry
from bridge.results.schema import Outcome, SlideResult
from bridge.scoring.job import Opener, SlideJob, SlidesElsewhere, encode_job
from bridge.scoring.progress import Progress
from bridge.scoring.slide import failed_result
from herohe_model.errors import (
    CancelledError,
    HeroheError,
    SlideError,
    SlideNotFoundError,
    WorkerDiedError,
)
from herohe_model.model.card import read_card
from herohe_model.model.compute import AUTO, Compute
from herohe_model.model.machine import default_threads
from herohe_model.model.score import ScorerInfo, ScoringModel

if TYPE_CHECKING:
    from distributed import Future

_log = logging.getLogger(__name__)

_LOOK_S: Final = 2.0
"""How often the driver looks which workers there are."""
_FETCH_S: Final = 20.0
"""How long fetching a result may take before its worker is taken for dead."""
_AHEAD: Final = 2
"""Slides in dask's hands for each thread of a worker: one at work, one waiting for it."""
_TRIES: Final = 3
"""Workers that must fail at a slide before it, and not the worker, is taken for the reason."""
_RETRIES: Final = 2
"""How often dask may try a slide again after an error of its own."""


@dataclass(eq=False)
class _Task:
    """A slide that is not finished.

    Attributes
    ----------
    data
        The job as it travels.
    future
        Dask's; None while it waits to be submitted.
    workers
        The only ones that it may go to; None for any.
    failures
        What those said that failed at it, by their addresses.
    suspect
        Too many workers died while it was in their hands.
    """

    job: SlideJob
    data: bytes
    future: Future[bytes] | None = None
    workers: frozenset[str] | None = None
    failures: dict[str, SlideResult] = field(default_factory=dict)
    suspect: bool = False


class DaskExecutor:
    """The executor of slides on the workers of a dask cluster; a context manager.

    Implements :class:`bridge.batch.executor.SlideExecutor`.

    All workers must be alike in what results depend on. They score with as many threads as this machine
    would, so that the cluster and this machine give the same results.

    Parameters
    ----------
    model
        The model's file; it is sent to workers that cannot read it.
    compute
        What shall compute it in each worker.
    slides
        Where the workers find the slides; at the same place when None.
    cancelled
        A true answer ends the wait for workers.
    timeout_s
        How long the scheduler may take to answer, and may be gone; None for dask's own setting.

    Raises
    ------
    HeroheError
        If there is no cluster, or its workers cannot take part.
    """

    def __init__(
        self,
        address: ClusterAddress,
        model: Path,
        compute: Compute = AUTO,
        *,
        slides: SlidesElsewhere | None = None,
        cancelled: Callable[[], bool] = lambda: False,
        timeout_s: float | None = None,
    ) -> None:
        card, sha256 = read_card(model)
        self._slides = slides
        self._tasks: dict[str, _Task] = {}
        self._unplaced: deque[_Task] = deque()
        self._suspects: deque[_Task] = deque()
        self._on_trial: _Task | None = None
        self._ended: queue.SimpleQueue[tuple[_Task, Future[bytes]]] = queue.SimpleQueue()
        self._results: list[SlideResult] = []
        self._progress: dict[str, tuple[str, Progress]] = {}
        self._submitted = 0
        self._cancelled = False
        self._problem: ClusterError | None = None
        self._said = ""
        self._looked = 0.0
        self._endpoint = address.endpoint()
        if address.is_exposed():
            _log.warning(
                f"{self._endpoint} is not encrypted: whoever reaches it can run anything there. "
                "docs/cluster.md says how to use TLS."
            )
        spec = RunSpec(
            run=uuid.uuid4().hex,
            version=__version__,
            model=str(model.absolute()),
            model_sha256=sha256,
            compute=compute,
            threads=default_threads(),
        )
        self._client = connect(address, timeout_s=timeout_s)
        try:
            self._spec, facts = gather_workers(self._client, spec, cancelled=cancelled)
            self._registry = WorkerRegistry(self._client, model, sha256)
            self._client.subscribe_topic(TOPIC, self._hear)
        except BaseException:
            self._client.close()
            raise
        self.info = ScorerInfo(card, sha256, facts.device, facts.precision, facts.engine, facts.embeds)
        self._encoded_spec = encode(self._spec)

    def __enter__(self) -> DaskExecutor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def model(self) -> ScoringModel:
        """The workers' model."""
        return self.info.model

    @property
    def capacity(self) -> int:
        """As many slides as keep every thread busy while results are written."""
        return max(_AHEAD, _AHEAD * self._registry.threads)

    def check(self) -> None:
        """Raise a ClusterError if the scheduler is gone."""
        if self._problem is not None:
            raise self._problem

    def submit(self, job: SlideJob, opener: Opener | None = None) -> None:
        """Give a slide to dask; one that is no file cannot go there, and fails."""
        if opener is not None:
            here = SlideError(
                f"The pixels of {job.slide} come from QuPath, which reads them on this machine alone",
                "Score it without --dask",
            )
            self._results.append(failed_result(here, entry=job.entry, slide=job.slide, path=job.path))
            return
        file = self._slides.map(job.file) if self._slides else job.file
        task = _Task(job, encode_job(msgspec.structs.replace(job, file=file)))
        self._tasks[job.entry] = task
        self._again(task)
        self._place_unplaced()

    def finished(self, timeout_s: float) -> list[SlideResult]:
        """Fetch what has ended; slides that go on elsewhere are not among it."""
        self._look()
        try:
            self._settle(*self._ended.get(timeout=0.0 if self._results else timeout_s))
            while True:
                self._settle(*self._ended.get(timeout=0.0))
        except queue.Empty:
            pass
        self._place_unplaced()
        results, self._results = self._results, []
        return results

    def progress(self) -> Sequence[tuple[str, Progress]]:
        """How far those slides are that workers have spoken of."""
        return [now for entry, now in list(self._progress.items()) if entry in self._tasks]

    def cancel(self) -> None:
        """Give up everything that has not ended; workers stop within one composite."""
        if self._cancelled:
            return
        self._cancelled = True
        given_up = [f for f in self._tasks.values() if f.future is None or f.future.status != "finished"]
        futures = [task.future for task in given_up if task.future is not None]
        for task in given_up:
            self._again(task)
        # A client that has lost its scheduler has no futures to cancel.
        if futures and self._client.status == "running":
            self._client.cancel(futures)

    def close(self) -> None:
        """Cancel what is left, have the workers forget the model, and disconnect; may be called twice."""
        self.cancel()
        if self._client.status == "running":
            from bridge.cluster.worker import let_go

            with suppress(OSError):
                self._client.run(let_go, self._encoded_spec, on_error="ignore")
        self._client.close()

    def _hear(self, event: tuple[float, bytes]) -> None:
        """Take up a worker's step; in dask's thread."""
        try:
            step = decode_step(event[1])
        except (msgspec.MsgspecError, TypeError):
            # Of a driver of another version.
            return
        task = self._tasks.get(step.entry)
        if step.run == self._spec.run and task is not None:
            self._progress[step.entry] = (task.job.slide, Progress(step.stage, step.done, step.total))

    def _look(self) -> None:
        """Look after the cluster: which workers there are, and who has to be placed anew."""
        while self._on_trial is None and self._suspects:
            suspect = self._suspects.popleft()
            if self._tasks.get(suspect.job.entry) is suspect:
                self._on_trial = suspect
                self._unplaced.append(suspect)
        if time.monotonic() - self._looked < _LOOK_S:
            return
        self._looked = time.monotonic()
        if self._client.status in ("closing", "closed"):
            self._lose()
        elif self._client.status != "running":
            self._say(f"The dask scheduler {self._endpoint} does not answer; waiting for it")
        else:
            self._registry.look()
            usable = self._registry.usable
            self._say("" if usable else "No worker that could take part is there; waiting for one")
            for task in list(self._tasks.values()):
                if task.workers is not None and not task.workers & usable:
                    self._again(task)

    def _say(self, message: str) -> None:
        """Tell what is waited for, once."""
        if message and message != self._said:
            _log.info("%s", message)
        self._said = message

    def _lose(self) -> None:
        """End everything: the scheduler did not come back."""
        if self._problem is not None or self._cancelled:
            return
        self._problem = ClusterError(
            f"The dask scheduler {self._endpoint} is gone",
            "Start it and its workers again, and give the same command: finished slides are kept",
        )
        for task in list(self._tasks.values()):
            self._fail(task, self._problem)

    def _place_unplaced(self) -> None:
        """Give dask what waits, as far as there is a scheduler and a worker that may do it."""
        for _ in range(len(self._unplaced)):
            task = self._unplaced.popleft()
            if self._tasks.get(task.job.entry) is not task:
                continue
            usable, everybody = self._registry.usable, self._registry.is_whole
            candidates = usable - task.failures.keys()
            if self._client.status != "running" or not (usable or everybody):
                self._unplaced.append(task)
            elif usable and not candidates:
                self._give_up(task)
            else:
                anywhere = everybody and not task.failures
                self._place(task, None if anywhere else candidates)

    def _place(self, task: _Task, workers: frozenset[str] | None) -> None:
        from bridge.cluster.worker import score

        self._submitted += 1
        try:
            future = self._client.submit(
                score,
                self._encoded_spec,
                task.data,
                key=f"herohe-{self._spec.run}-{self._submitted}",
                pure=False,
                retries=_RETRIES,
                workers=sorted(workers) if workers is not None else None,
            )
        except Exception:
            if self._client.status == "running":
                raise
            # The scheduler was lost at this very moment.
            self._unplaced.append(task)
            return
        task.future, task.workers = future, workers
        future.add_done_callback(lambda ended: self._ended.put((task, ended)))

    def _again(self, task: _Task) -> None:
        """Have a slide placed anew, whatever dask is doing with it."""
        old, task.future, task.workers = task.future, None, None
        self._progress.pop(task.job.entry, None)
        if old is not None and not self._cancelled and self._client.status == "running":
            old.cancel()
        if self._problem is not None:
            self._fail(task, self._problem)
        elif self._cancelled:
            self._fail(task, CancelledError(f"Scoring of {task.job.slide} was cancelled"))
        else:
            self._unplaced.append(task)

    def _settle(self, task: _Task, future: Future[bytes]) -> None:
        """Find out how a slide's task ended, and what that means for the slide."""
        if task.future is not future:
            # It was placed anew meanwhile.
            return
        if future.status == "error":
            self._blame(task, future.exception())
            return
        try:
            data = future.result(timeout=_FETCH_S)
        except Exception:
            # The scheduler was lost, or the worker died with the result.
            self._again(task)
            return
        answer = decode_answer(data)
        if isinstance(answer, Scored):
            self._take(task, answer)
            return
        if isinstance(answer, ModelMissing):
            again = task.workers == frozenset({answer.worker})
            if self._registry.supply(answer, again=again) and not self._cancelled:
                # Back to where the model is now; if that dies, anywhere.
                self._place(task, frozenset({answer.worker}))
                return
        elif isinstance(answer, Rejected):
            self._registry.leave_out(answer)
        self._again(task)

    def _take(self, task: _Task, scored: Scored) -> None:
        """Take a result; where one worker fails, such as by its disk or its GPU, another may not."""
        if scored.result.outcome not in (Outcome.UNREADABLE, Outcome.FAILED):
            self._finish(task, scored.result)
            return
        task.failures[scored.worker] = scored.result
        if len(task.failures) < _TRIES:
            self._again(task)
        else:
            self._give_up(task)

    def _blame(self, task: _Task, error: BaseException | None) -> None:
        """Find out whether a slide kills workers, or was only there when they died.

        Dask counts a worker's death against all slides that were in its hands. Those of which it has had
        enough are tried once more, one at a time.
        """
        from distributed import KilledWorker

        slide = task.job.slide
        if not isinstance(error, KilledWorker):
            problem = ClusterError(f"{slide}: dask could not have it scored ({error!r})", "See its logs")
            self._fail(task, problem)
        elif task.suspect:
            deaths = 2 * (error.allowed_failures + 1)
            self._fail(
                task,
                WorkerDiedError(
                    f"{slide}: {deaths} times a worker ended that had it, by turns with others and without",
                    "See the workers' logs; if memory ran out, give them more, or fewer threads",
                ),
            )
        else:
            task.suspect, task.future, task.workers = True, None, None
            self._suspects.append(task)

    def _give_up(self, task: _Task) -> None:
        """End a slide that no worker could score."""
        result = list(task.failures.values())[-1]
        if result.error_code == SlideNotFoundError.code and Path(task.job.file).exists():
            file, workers = task.job.file, ", ".join(sorted(task.failures))
            there = self._slides.map(file) if self._slides else file
            self._fail(
                task,
                SlideNotFoundError(
                    f"{file} is here, but the workers {workers} do not find {there}",
                    "Mount the slides there at the same place, or say with --dask-slides where they are",
                ),
            )
        else:
            self._finish(task, result)

    def _fail(self, task: _Task, error: HeroheError) -> None:
        job = task.job
        self._finish(task, failed_result(error, entry=job.entry, slide=job.slide, path=job.path))

    def _finish(self, task: _Task, result: SlideResult) -> None:
        """Take a slide out of everything; its result is returned next."""
        del self._tasks[task.job.entry]
        self._progress.pop(task.job.entry, None)
        task.future = None
        if task is self._on_trial:
            self._on_trial = None
        self._results.append(result)
