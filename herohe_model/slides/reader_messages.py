"""What a process asks of the one that reads its slides, and how that answers.

A question is a line of JSON on the reader's standard input. An answer on its standard output is
:data:`ANSWER` (the question's number, a kind, the length of what follows), then pixels, or JSON. JSON of the
standard library: it carries the names of files that are no valid Unicode.
"""

from __future__ import annotations

import json
import struct
from typing import Any, Final, TypeVar

import msgspec

_T = TypeVar("_T")

ANSWER: Final = struct.Struct("<IBQ")
PIXELS, OPENED, PROBLEM = range(3)

LONGEST_TEXT: Final = 1 << 20
"""Of an answer in JSON, bytes."""


class Open(msgspec.Struct, frozen=True, tag=True):
    """Open a slide, by which number it is spoken of from then on; answered by its ``SlideFacts``."""

    slide: int
    path: str
    mpp: float | None


class Read(msgspec.Struct, frozen=True, tag=True):
    """Read a box as ``SlideFile.read_box`` does; answered by its pixels, row by row, uint8 RGB."""

    slide: int
    x: int
    y: int
    width: int
    height: int
    out: tuple[int, int]


class Lacks(msgspec.Struct, frozen=True, tag=True):
    """Ask which squares lack pixels, as ``SlideFile.lacks_pixels`` does; answered by a byte each, 0 or 1."""

    slide: int
    x: list[int]
    y: list[int]
    size: int
    out: int


class Close(msgspec.Struct, frozen=True, tag=True):
    """Close a slide; not answered."""

    slide: int


class Question(msgspec.Struct, frozen=True):
    """Something asked, and the number that its answer bears."""

    number: int
    what: Open | Read | Lacks | Close


class Problem(msgspec.Struct, frozen=True):
    """Why a question cannot be answered: what a HeroheError of that code is made of."""

    code: str
    problem: str
    remedy: str


def to_line(value: Any) -> bytes:
    """Return a struct or dataclass as a line of JSON."""
    return json.dumps(msgspec.to_builtins(value)).encode("ascii") + b"\n"


def from_line(line: bytes, type: type[_T]) -> _T:
    """Return what :func:`to_line` made a line of; raises ValueError for anything else."""
    return msgspec.convert(json.loads(line), type)
