"""Which of two versions is the older one."""

from __future__ import annotations

import re


def is_older(one: str, other: str) -> bool:
    """Whether version `one` comes before `other`, by the numbers of their releases."""
    return _release(one) < _release(other)


def _release(version: str) -> tuple[int, ...]:
    # What follows a plus names a build of the same release, such as torch's for the CPU.
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("+")[0]))
