"""Processes that read slides for this one, so that a slide that ends its reader ends nothing else.

They are started when the first slide is opened, without fork, shared by all slides of this process, and end
with it.
"""

from __future__ import annotations

import atexit
import itertools
import os
import signal
import subprocess
import tempfile
from collections import deque
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from io import FileIO
from threading import Lock, Thread
from typing import Final

import numpy as np
from numpy.typing import NDArray

from herohe_model.child_process import end_child, start_child
from herohe_model.slides.reader_messages import (
    ANSWER,
    LONGEST_TEXT,
    OPENED,
    PIXELS,
    PROBLEM,
    Close,
    Lacks,
    Open,
    Problem,
    Question,
    Read,
    from_line,
    to_line,
)
from herohe_model.slides.slide_file import SlideFacts

MOST_PROCESSES: Final = min(max(1, (os.cpu_count() or 1) // 4), 4)
"""That slides share; each reads with several threads."""

ANSWER_S: Final = 300.0
"""How long an answer may take before the reader is taken to hang: disks of networks can be slow."""

_SAID_BYTES: Final = 1000
_ENDING_S: Final = 2.0


class ReaderEnded(Exception):
    """A reader is gone before it answered.

    Parameters
    ----------
    status
        Its exit status, below 0 for a signal's number; None where it had to be ended, since it hung.
    said
        The end of the last line that it wrote to its standard error.
    """

    def __init__(self, status: int | None, said: str = "") -> None:
        super().__init__(status, said)
        self.status = status
        self.said = said

    @property
    def how(self) -> str:
        """The end in words."""
        if self.status is None:
            return f"no answer within {ANSWER_S:.0f} s"
        if self.status >= 0:
            what = f"exit code {self.status}"
        else:
            try:
                what = signal.Signals(-self.status).name
            except ValueError:
                what = f"signal {-self.status}"
        return f"{what}: {self.said}" if self.said else what

    @property
    def by_fault(self) -> bool:
        """Whether it crashed, and was not ended by somebody, the system for want of memory perhaps."""
        if self.status is None:
            return False
        if os.name == "nt":
            # TerminateProcess says 1, abort() 3, and a fault of memory a number of its own.
            return self.status not in (0, 1)
        return self.status < 0 and -self.status not in (signal.SIGKILL, signal.SIGTERM)


class Refused(Exception):
    """The reader's reason why it cannot open or read something."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.problem = problem


@dataclass(eq=False)
class _Waiting:
    """A question without an answer yet, and where its pixels go."""

    pixels: NDArray[np.uint8] | None
    answer: Future[bytes] = field(default_factory=Future)


class ReaderProcess:
    """One process that reads; for any number of threads.

    Attributes
    ----------
    slides
        How many are open there; counted by the pool.
    """

    def __init__(self) -> None:
        self.slides = 0
        self._said = tempfile.TemporaryFile()  # noqa: SIM115, closed when the process is over
        self._child = start_child(
            ["-m", "herohe_model.slides.reader_process"],
            stdout=subprocess.PIPE,
            stderr=self._said,
            # It multiplies no matrices, and each thread of a library for that takes memory.
            environment={"OPENBLAS_NUM_THREADS": "1"},
        )
        self._asking = Lock()
        self._numbers = itertools.count()
        self._waiting: dict[int, _Waiting] = {}
        self._ended: tuple[int, str] | None = None
        Thread(target=self._listen, name="reader answers", daemon=True).start()

    @property
    def alive(self) -> bool:
        """Whether it can still be asked, as far as is known."""
        return self._ended is None

    def open(self, what: Open) -> SlideFacts:
        """Open a slide; raises Refused, or ReaderEnded."""
        return from_line(self._ask(what, None), SlideFacts)

    def read(self, what: Read) -> NDArray[np.uint8]:
        """Return pixels, shape (height, width, 3), uint8 RGB; raises Refused, or ReaderEnded."""
        pixels = np.empty((what.out[1], what.out[0], 3), dtype=np.uint8)
        self._ask(what, pixels)
        return pixels

    def lacks(self, what: Lacks) -> NDArray[np.bool_]:
        """Return which squares lack pixels, shape (n,); raises Refused, or ReaderEnded."""
        answer = np.empty(len(what.x), dtype=np.bool_)
        self._ask(what, answer.view(np.uint8))
        return answer

    def close(self, slide: int) -> None:
        """Close a slide there."""
        with self._asking:
            self._write(Question(0, Close(slide)))

    def end(self) -> None:
        """End it."""
        end_child(self._child, grace_s=_ENDING_S)

    def _ask(self, what: Open | Read | Lacks, pixels: NDArray[np.uint8] | None) -> bytes:
        waiting = _Waiting(pixels)
        with self._asking:
            if self._ended is not None:
                raise ReaderEnded(*self._ended)
            number = next(self._numbers) % (1 << 32)
            self._waiting[number] = waiting
            self._write(Question(number, what))
        try:
            return waiting.answer.result(timeout=ANSWER_S)
        except FutureTimeoutError:
            self._child.kill()
            raise ReaderEnded(None) from None

    def _write(self, question: Question) -> None:
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(to_line(question))
            self._child.stdin.flush()
        except (OSError, ValueError):
            # It is gone: whoever listens to it will see that, too.
            return

    def _listen(self) -> None:
        """Give each answer to who waits for it, until there is no more."""
        assert self._child.stdout is not None
        answers = FileIO(os.dup(self._child.stdout.fileno()))
        try:
            while True:
                number, kind, length = ANSWER.unpack(_exactly(answers, bytearray(ANSWER.size)))
                waiting = self._waiting.pop(number)
                try:
                    self._take(answers, kind, length, waiting)
                except BaseException:
                    self._waiting[number] = waiting
                    raise
        except (OSError, EOFError, KeyError, ValueError):
            self._over(answers)

    def _take(self, answers: FileIO, kind: int, length: int, waiting: _Waiting) -> None:
        """Read the rest of an answer; a ValueError says that it is none."""
        pixels = waiting.pixels
        if kind == PIXELS and pixels is not None and length == pixels.nbytes:
            _exactly(answers, pixels.data.cast("B"))
            waiting.answer.set_result(b"")
            return
        if length > LONGEST_TEXT or kind not in (OPENED, PROBLEM):
            raise ValueError("no answer")
        text = _exactly(answers, bytearray(length))
        if kind == PROBLEM:
            waiting.answer.set_exception(Refused(from_line(bytes(text), Problem)))
        else:
            waiting.answer.set_result(bytes(text))

    def _over(self, answers: FileIO) -> None:
        """Tell everybody who waits that no answer will come."""
        answers.close()
        # What closed its output, or answers nonsense, is of no more use.
        end_child(self._child, grace_s=_ENDING_S)
        status = self._child.returncode
        with self._said as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _SAID_BYTES))
            lines = file.read().decode("utf-8", "replace").strip().splitlines()
        # What stands before says in which file of which library.
        ended = (status, lines[-1].rsplit(": ", 1)[-1].strip() if lines else "")
        with self._asking:
            self._ended = ended
            left, self._waiting = list(self._waiting.values()), {}
        for waiting in left:
            waiting.answer.set_exception(ReaderEnded(*ended))


def _exactly(file: FileIO, room: bytearray | memoryview) -> bytearray | memoryview:
    """Fill `room` from a file; raises EOFError where that ends before."""
    rest = memoryview(room)
    while rest:
        count = file.readinto(rest)
        if not count:
            raise EOFError
        rest = rest[count:]
    return room


class ReaderPool:
    """The processes that the slides of this process share; for any number of threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._shared: list[ReaderProcess] = []
        self._alone: set[ReaderProcess] = set()
        self._slides = itertools.count()
        self._left: deque[tuple[ReaderProcess, int]] = deque()

    def take(self, *, alone: bool) -> tuple[ReaderProcess, int]:
        """Return a process to open a slide in, and the slide's number there.

        With `alone`, one that no other slide is read by. Raises OSError where none can be started.
        """
        self._close_left()
        with self._lock:
            self._shared = [process for process in self._shared if process.alive]
            process = min(self._shared, key=lambda process: process.slides, default=None)
            if alone:
                process = ReaderProcess()
                self._alone.add(process)
            elif process is None or (process.slides and len(self._shared) < MOST_PROCESSES):
                process = ReaderProcess()
                self._shared.append(process)
            process.slides += 1
            return process, next(self._slides)

    def leave(self, process: ReaderProcess, slide: int) -> None:
        """Say that a slide is no longer needed; may be called while anything else is under way."""
        self._left.append((process, slide))

    def give_back(self, process: ReaderProcess, slide: int) -> None:
        """Close a slide."""
        self.leave(process, slide)
        self._close_left()

    def end(self) -> None:
        """End all processes."""
        with self._lock:
            everyone = [*self._shared, *self._alone]
            self._shared, self._alone = [], set()
        for process in everyone:
            process.end()

    def _close_left(self) -> None:
        while self._left:
            try:
                process, slide = self._left.popleft()
            except IndexError:
                return
            process.close(slide)
            with self._lock:
                process.slides -= 1
                over = process in self._alone
                self._alone.discard(process)
            if over:
                process.end()


class _Pools:
    """The pool of this process: one that was forked has another."""

    def __init__(self) -> None:
        self.pool = ReaderPool()
        atexit.register(lambda: self.pool.end())
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._anew)

    def _anew(self) -> None:
        self.pool = ReaderPool()


_POOLS: Final = _Pools()


def reader_pool() -> ReaderPool:
    """Return the pool of this process."""
    return _POOLS.pool
