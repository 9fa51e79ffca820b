"""Files written beside their place and then moved there: a reader sees the old one or the new one."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path
from typing import Final

from herohe_model.errors import HeroheError


class WriteError(HeroheError):
    """A file cannot be written."""

    code = "write"


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file, or leave what was there untouched; its folder is made if it is not there.

    Raises
    ------
    WriteError
        If it cannot be written.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise WriteError(
            f"{path} cannot be written: {error.strerror or error}",
            "Close it elsewhere, check the free space and the folder's permissions, or name another place",
        ) from error


_CHUNK: Final = 1 << 20


def sha256_of(path: Path) -> str | None:
    """Return the SHA-256 of a file's content, hexadecimal; None when there is no such file."""
    sha = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                sha.update(chunk)
    except FileNotFoundError:
        return None
    return sha.hexdigest()
