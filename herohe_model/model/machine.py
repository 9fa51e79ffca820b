"""How much of this machine may be used, and how its threads wait; without importing PyTorch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import psutil

_CONTAINER_LIMITS: Final = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def machine_memory() -> int:
    """Return the bytes of memory that this process may use: all of the machine's, or its container's."""
    total = psutil.virtual_memory().total
    for limit in _CONTAINER_LIMITS:
        try:
            total = min(total, int(limit.read_text()))
        except (OSError, ValueError):  # no such container, or "max"
            continue
    return total


def default_threads() -> int:
    """Return ``OMP_NUM_THREADS`` if it is set, otherwise the physical cores that this process may use."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdecimal() and int(wanted) > 0:
        return int(wanted)
    physical = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    process = psutil.Process()
    # macOS has no affinity.
    allowed = len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else physical
    return max(1, min(physical, allowed))


def wait_passively() -> None:
    """Have OpenMP's threads sleep while they wait, unless the user said otherwise; before PyTorch is loaded.

    They spin by default; beside the threads that read slides, or any other busy program, that made scoring
    ten times slower.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
