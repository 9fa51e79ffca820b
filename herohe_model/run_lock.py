"""One run a folder: two that write into the same one would take each other's files for their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from herohe_model.errors import HeroheError

_LOCK_NAME: Final = "run.lock"


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Hold a folder of a run, which is made if it is not there; a killed process holds nothing.

    Raises
    ------
    HeroheError
        If another process holds it, or it cannot be written to.
    """
    path = folder / _LOCK_NAME
    if path.is_symlink():
        raise HeroheError(f"{path} is a link, which is not followed", "Remove it: a run makes its own")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = FileLock(path, timeout=0)
        held.acquire()
    except Timeout:
        raise HeroheError(
            f"Another run uses {folder}", "Wait until it has ended, or name another --output"
        ) from None
    except NotImplementedError:
        # A file system without locks: there is nobody to ask.
        yield
        return
    except OSError as error:
        raise HeroheError(
            f"The folder {folder} cannot be written to ({error.strerror or error})",
            "Allow writing there, or name another --output",
        ) from error
    try:
        yield
    finally:
        held.release()
