"""How far a slide is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Progress:
    """How far a slide is: `done` of `total` composites are scored, or patches embedded, or neither yet."""

    stage: Literal["foreground", "composites", "patches"]
    done: int
    total: int


ProgressCallback = Callable[[Progress], None]
