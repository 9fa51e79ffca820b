"""Files put into somebody else's folder, with a record by which exactly they are taken out again.

A file counts as ours only while its content is what we wrote. One that its user has changed since is never
overwritten and never deleted: it is set aside or left, and named.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Final, Literal

import msgspec

from herohe_model.errors import HeroheError
from herohe_model.files import replacing, sha256_of

_FORMAT: Final = 1
_OFF_LIMITS: Final = "It is in use or protected: close QuPath, allow writing there, and run again"

State = Literal["there", "changed", "missing"]


class InstallError(HeroheError):
    """Files cannot be installed or removed."""

    code = "install"


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What was installed below a folder; paths are relative to it, with forward slashes.

    Attributes
    ----------
    files
        SHA-256 of each file's content.
    folders
        Those that were made, parents before their children.
    notes
        What else was done, for who undoes it.
    """

    format: Literal[1] = _FORMAT
    version: str
    files: dict[str, str]
    folders: tuple[str, ...] = ()
    notes: dict[str, str] = {}


@dataclass(frozen=True)
class Changes:
    """What installing or removing did not simply do: for each such file, what became of it, in words."""

    remarks: tuple[str, ...]


def read_record(path: Path) -> Record | None:
    """Return a record, None when there is none.

    Raises
    ------
    InstallError
        When it cannot be read, or names what is not below its folder: others may write in a shared one.
    """
    try:
        record = msgspec.json.decode(path.read_bytes(), type=Record)
        outside = [name for name in (*record.files, *record.folders) if not _is_below(name)]
        if outside:
            raise ValueError(f"it names {outside[0]}, which is no path below its folder")
        return record
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise InstallError(
            f"The record {path} of what was installed cannot be read ({error})",
            "Remove what it lies beside by hand, and install again",
        ) from error


def _is_below(name: str) -> bool:
    """Whether a recorded path stays below the folder that it is relative to, on any system."""
    path = PureWindowsPath(name)
    return bool(path.parts) and not path.anchor and ".." not in path.parts and ":" not in name


def _leads_away(root: Path, path: Path) -> bool:
    """Whether a link among a file's folders leads out of the folder that it was recorded in."""
    return not path.parent.resolve().is_relative_to(root.resolve())


def states(root: Path, record: Record) -> dict[str, State]:
    """Return for each file of a record whether it is as it was written."""
    found: dict[str, State] = {}
    for name, sha256 in record.files.items():
        now = sha256_of(root / name)
        found[name] = "missing" if now is None else "there" if now == sha256 else "changed"
    return found


def install(
    root: Path,
    record_name: str,
    files: Mapping[str, bytes],
    *,
    version: str,
    notes: Mapping[str, str] | None = None,
) -> Changes:
    """Put files below a folder, in place of those that an earlier installation put there.

    Parameters
    ----------
    root
        The folder; it exists.
    record_name
        Path of the record, relative to the folder.
    files
        Contents by relative path, with forward slashes.

    Raises
    ------
    InstallError
        If something cannot be written. What was there before is in the record still.
    """
    before = read_record(root / record_name) or Record(version=version, files={})
    remarks: list[str] = []
    folders = list(before.folders)
    ours = dict(before.files)
    kept_notes = {**before.notes, **(notes or {})}
    try:
        for name, content in files.items():
            path = root / name
            now, new = sha256_of(path), hashlib.sha256(content).hexdigest()
            if now is not None and now != new and now != before.files.get(name):
                aside = _free_name(path)
                path.rename(aside)
                remarks.append(f"{path} was changed by you: it is now {aside.name}")
                now = None
            if now == new and name not in before.files:
                # Somebody else's, by chance the same: not ours to remove.
                continue
            _make_folders(root, path.parent, folders)
            if name not in ours:
                # Before the file, so that one that was written is one that is recorded.
                ours[name] = new
                _save(root, record_name, Record(version=version, files=ours, notes=kept_notes), folders)
            if now != new:
                _write(path, content)
            ours[name] = new
        for name in [name for name in ours if name not in files]:
            remarks += _remove(root, name, ours[name])
            del ours[name]
        _save(root, record_name, Record(version=version, files=ours, notes=kept_notes), folders)
    except OSError as error:
        raise InstallError(
            f"{error.filename or root} cannot be written ({error.strerror})", _OFF_LIMITS
        ) from error
    return Changes(tuple(remarks))


def uninstall(root: Path, record_name: str, *, made_later: tuple[str, ...] = ()) -> Changes:
    """Remove what :func:`install` put below a folder, and folders that it made, as far as they are empty.

    Parameters
    ----------
    made_later
        Files that what was installed makes itself, such as logs; relative paths.

    Raises
    ------
    InstallError
        If something cannot be removed; the record still names it.
    """
    record = read_record(root / record_name)
    if record is None:
        return Changes(())
    remarks: list[str] = []
    ours = dict(record.files)
    try:
        for name, sha256 in record.files.items():
            remarks += _remove(root, name, sha256)
            del ours[name]
            _save(root, record_name, msgspec.structs.replace(record, files=ours), list(record.folders))
        for name in (*made_later, record_name):
            (root / name).unlink(missing_ok=True)
    except OSError as error:
        raise InstallError(
            f"{error.filename or root} cannot be removed ({error.strerror})", _OFF_LIMITS
        ) from error
    for folder in reversed(record.folders):
        try:
            if not _leads_away(root, root / folder):
                (root / folder).rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            remarks.append(f"{root / folder} was left, because there are other files in it")
    return Changes(tuple(remarks))


def _remove(root: Path, name: str, sha256: str) -> list[str]:
    path = root / name
    if _leads_away(root, path):
        return [f"{path} was left, because a link leads to it out of {root}"]
    now = sha256_of(path)
    if now is not None and now != sha256:
        return [f"{path} was left, because you changed it"]
    path.unlink(missing_ok=True)
    return []


def _make_folders(root: Path, folder: Path, made: list[str]) -> None:
    missing = []
    while folder != root and not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir()
        made.append(path.relative_to(root).as_posix())


def _save(root: Path, record_name: str, record: Record, folders: list[str]) -> None:
    path = root / record_name
    _make_folders(root, path.parent, folders)
    text = msgspec.json.encode(msgspec.structs.replace(record, folders=tuple(folders)))
    _write(path, msgspec.json.format(text))


def _write(path: Path, content: bytes) -> None:
    with replacing(path, alone=True) as part, part.open("xb") as file:
        file.write(content)


def _free_name(path: Path) -> Path:
    number = 1
    while (free := path.with_name(f"{path.stem} (changed {number}){path.suffix}")).exists():
        number += 1
    return free
