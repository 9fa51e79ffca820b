"""An executor that begins when the first slide needs it: where all is known already, no model is loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bridge.batch.executor import SlideExecutor
from bridge.results.schema import SlideResult
from bridge.scoring.job import Opener, SlideJob
from bridge.scoring.progress import Progress
from herohe_model.errors import HeroheError
from herohe_model.model.score import ScorerInfo, ScoringModel


class OtherScorerError(HeroheError):
    """What scores now is not what scored the last time; results that were taken for known are not."""


class DeferredExecutor:
    """Implements :class:`~bridge.batch.executor.SlideExecutor` by another one, begun when it is needed.

    Parameters
    ----------
    begin
        Makes the executor; called once at most.
    expected
        What scored with the same model and the same wishes on this machine the last time: it stands for what
        will score until that runs. None when nothing is known: then :attr:`info` begins the executor.
    model
        The model, which is known from its file.
    """

    def __init__(
        self, begin: Callable[[], SlideExecutor], expected: ScorerInfo | None, model: ScoringModel
    ) -> None:
        self._begin = begin
        self._expected = expected
        self.model = model
        self._begun: SlideExecutor | None = None
        self._cancelled = False

    @property
    def begun(self) -> bool:
        """Whether the executor was needed."""
        return self._begun is not None

    @property
    def info(self) -> ScorerInfo:
        """What scores, or scored the last time."""
        if self._begun is None and self._expected is not None:
            return self._expected
        return self._executor().info

    @property
    def capacity(self) -> int:
        """How many slides it may have in hand; one before it was begun."""
        return self._begun.capacity if self._begun else 1

    def check(self) -> None:
        """Raise the HeroheError for which no further slide can be scored, if there is one."""
        if self._begun:
            self._begun.check()

    def submit(self, job: SlideJob, opener: Opener | None = None) -> None:
        """Begin a slide.

        Raises
        ------
        OtherScorerError
            If what scores is not what :attr:`info` said before; it says so from now on. The first call may.
        """
        executor = self._executor()
        expected, self._expected = self._expected, None
        if expected is not None and executor.info != expected:
            raise OtherScorerError(
                f"Slides are scored by {executor.info.engine} in {executor.info.precision} now, "
                f"not by {expected.engine} in {expected.precision}"
            )
        executor.submit(job, opener)

    def finished(self, timeout_s: float) -> list[SlideResult]:
        """Return results not returned before."""
        return self._begun.finished(timeout_s) if self._begun else []

    def progress(self) -> Sequence[tuple[str, Progress]]:
        """How far the running slides are."""
        return self._begun.progress() if self._begun else []

    def cancel(self) -> None:
        """Have everything in hand finish soon."""
        self._cancelled = True
        if self._begun:
            self._begun.cancel()

    def _executor(self) -> SlideExecutor:
        if self._begun is None:
            self._begun = self._begin()
            if self._cancelled:
                self._begun.cancel()
        return self._begun
