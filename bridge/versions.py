"""Which of two versions is the older one."""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Final


def is_older(one: str, other: str) -> bool:
    """Whether version `one` comes before `other`, by the numbers of their releases."""
    return _release(one) < _release(other)


def _release(version: str) -> tuple[int, ...]:
    # What follows a plus names a build of the same release, such as torch's for the CPU.
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("+")[0]))


_VERSIONED: Final = (
    "herohe-bridge",
    "numpy",
    "openslide-bin",
    "openslide-python",
    "pillow",
    "shapely",
    "timm",
    "torch",
)


@cache
def package_versions() -> tuple[tuple[str, str], ...]:
    """Versions of the packages that decide a result, by name."""
    found = []
    for name in _VERSIONED:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            found.append((name, "unknown"))
    return tuple(found)
