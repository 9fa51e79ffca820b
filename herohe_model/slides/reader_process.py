"""The process that opens and reads slides for another, started by :mod:`herohe_model.slides.reader_pool`.

A damaged slide can make OpenSlide abort: then this process ends, and no other.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any, Final

import numpy as np

from herohe_model.errors import SlideError, SlideUnreadableError
from herohe_model.slides.reader_messages import (
    ANSWER,
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
from herohe_model.slides.slide import Slide
from herohe_model.slides.slide_file import COPY_AGAIN

_THREADS: Final = 8
_MOST_MEMORY: Final = 4 << 30
"""Bytes that a damaged slide may make this process take before it fails, where the system can be told."""


def main() -> None:
    """Answer questions until the other process lets go of this one's standard input, or is gone."""
    _bound()
    # What libraries print must not get between answers.
    answers = os.dup(1)
    os.dup2(2, 1)
    reader = _Reader(answers)
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="read") as pool:
        for line in sys.stdin.buffer:
            question = from_line(line, Question)
            if isinstance(question.what, Close):
                reader.close(question.what.slide)
            else:
                pool.submit(reader.answer, question.number, question.what)
        # Nobody waits any longer for what is being read.
        os._exit(0)


class _Reader:
    """The slides that are open here, and the way back."""

    def __init__(self, answers: int) -> None:
        self._answers = answers
        self._writing = Lock()
        self._slides: dict[int, Slide] = {}

    def answer(self, number: int, what: Open | Read | Lacks) -> None:
        """Do what is asked; whatever goes wrong is the answer."""
        try:
            if isinstance(what, Open):
                slide = self._slides[what.slide] = Slide(what.path, mpp=what.mpp)
                self._send(number, OPENED, to_line(slide.facts))
                return
            slide = self._slides[what.slide]
            if isinstance(what, Lacks):
                x, y = (np.array(edges, dtype=np.int64) for edges in (what.x, what.y))
                lacks = slide.lacks_pixels(x, y, what.size, what.out)
                self._send(number, PIXELS, lacks.view(np.uint8).data)
                return
            pixels = slide.read_box(what.x, what.y, what.width, what.height, what.out)
            self._send(number, PIXELS, pixels.data)
        except Exception as error:
            known = error if isinstance(error, SlideError) else self._unforeseen(what, error)
            self._send(number, PROBLEM, to_line(Problem(known.code, known.problem, known.remedy)))

    def close(self, number: int) -> None:
        """Let go of a slide, unless it did not open."""
        slide = self._slides.pop(number, None)
        if slide is not None:
            slide.close()

    def _unforeseen(self, what: Open | Read | Lacks, error: Exception) -> SlideError:
        slide = self._slides.get(what.slide)
        path = Path(what.path) if isinstance(what, Open) else slide.path if slide else "The slide"
        return SlideUnreadableError(f"{path} cannot be read ({type(error).__name__}: {error})", COPY_AGAIN)

    def _send(self, number: int, kind: int, content: Any) -> None:
        rest = memoryview(content).cast("B")
        with self._writing:
            try:
                os.write(self._answers, ANSWER.pack(number, kind, len(rest)))
                while rest:
                    rest = rest[os.write(self._answers, rest) :]
            except OSError:
                os._exit(0)


def _bound() -> None:
    """Take no more memory than a slide needs, and leave no core file behind."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        limit = _MOST_MEMORY if most == resource.RLIM_INFINITY else min(_MOST_MEMORY, most)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, most))


if __name__ == "__main__":
    main()
