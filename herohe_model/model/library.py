"""Models by their names: folders as ``model publish`` writes them, kept where ``model get`` puts them.

Such a folder holds a model file and a manifest with the SHA-256 of every file. A name is looked up here and
nowhere else; a model whose file is not what its manifest says is not used.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
import platformdirs

from herohe_model.errors import ModelFileError, os_problem
from herohe_model.files import sha256_of

FOLDER_VARIABLE: Final = "HEROHE_MODELS"
"""Names the folder of models; by default it lies among the user's data, as the platform has them."""

MANIFEST: Final = "manifest.json"
MODEL: Final = "model.safetensors"
MAX_MANIFEST_BYTES: Final = 1 << 20

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_FILE: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
_GET_AGAIN: Final = "Get it again: herohe-bridge model get"

Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]


class FileDigest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a file must be."""

    sha256: Sha256
    bytes: Annotated[int, msgspec.Meta(ge=0, le=2**40)]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What lies beside a published model.

    Attributes
    ----------
    name
        As the model's card has it.
    licence
        Of the model file, as the Hugging Face hub names licences; "" where nobody said.
    files
        By their names in the folder, without the manifest itself.
    """

    format: Literal["herohe-bridge model"] = "herohe-bridge model"
    version: Annotated[int, msgspec.Meta(ge=1, le=1)] = 1
    name: str
    licence: str = ""
    files: dict[Annotated[str, msgspec.Meta(pattern=_FILE)], FileDigest]

    def __post_init__(self) -> None:
        """Refuse what the types cannot."""
        if MODEL not in self.files or MANIFEST in self.files:
            raise ValueError(f"files names no {MODEL}, or {MANIFEST} itself")


@dataclass(frozen=True)
class KeptModel:
    """A model of the folder of models; `manifest` is None where that cannot be read."""

    name: str
    folder: Path
    manifest: Manifest | None

    @property
    def file(self) -> Path:
        """The model file."""
        return self.folder / MODEL


def models_folder() -> Path:
    """Return the folder of models, which need not exist."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return Path(named).absolute()
    return platformdirs.user_data_path("herohe-bridge", appauthor=False) / "models"


def model_slug(name: str) -> str:
    """Return a name as it can be typed and be a folder's: small letters, digits, ``.``, ``_`` and ``-``."""
    slug = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:64]
    return slug or "model"


def is_model_name(name: str) -> bool:
    """Whether a text can be the name of a model here."""
    return _NAME.fullmatch(name) is not None


def kept_models() -> list[KeptModel]:
    """Return the models that are here, by name."""
    return sorted(_kept(), key=lambda model: model.name)


def _kept() -> Iterator[KeptModel]:
    folder = models_folder()
    for inner in folder.iterdir() if folder.is_dir() else ():
        # What begins with a dot is being fetched.
        if is_model_name(inner.name) and inner.is_dir():
            try:
                yield KeptModel(inner.name, inner, read_manifest(inner / MANIFEST))
            except ModelFileError:
                yield KeptModel(inner.name, inner, None)


def resolve_model(given: str | Path) -> Path:
    """Return the model file that a user names: a file, a published folder, or a name of ``model list``.

    Returns
    -------
    Path
        What looks like a path is returned though nothing is there: whoever opens it says so.

    Raises
    ------
    ModelFileError
        If there is no such model, or its file is not what its manifest says.
    """
    path, name = Path(given), str(given)
    if path.is_file():
        return path
    if (path / MANIFEST).is_file():
        return checked_model(path)
    if is_model_name(name) and (models_folder() / name).is_dir():
        return checked_model(models_folder() / name)
    if path.exists() or path.name != name or path.suffix == ".safetensors":
        return path
    raise ModelFileError(
        f"There is no file {name}, and no model of that name is here",
        "See herohe-bridge model list, or name a model file",
    )


def checked_model(folder: Path) -> Path:
    """Return the model file of a published folder, after its SHA-256 was compared with the manifest's."""
    manifest = read_manifest(folder / MANIFEST)
    check_file(folder, manifest, MODEL)
    return folder / MODEL


def check_file(folder: Path, manifest: Manifest, name: str) -> None:
    """Check a file against a manifest.

    Raises
    ------
    ModelFileError
        If it is not there, cannot be read, or is another.
    """
    path = folder / name
    try:
        found = sha256_of(path)
    except OSError as error:
        raise ModelFileError(os_problem(error), _GET_AGAIN) from error
    if found is None:
        raise ModelFileError(f"{path} is missing, and its manifest names it", _GET_AGAIN)
    expected = manifest.files[name].sha256
    if found != expected:
        raise ModelFileError(
            f"{path} is not what its manifest says: its SHA-256 begins with {found[:12]}, "
            f"not {expected[:12]}",
            _GET_AGAIN,
        )


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.

    Raises
    ------
    ModelFileError
        If there is none, or it is damaged.
    """
    try:
        with path.open("rb") as file:
            return decode_manifest(file.read(MAX_MANIFEST_BYTES + 1), str(path))
    except OSError as error:
        raise ModelFileError(os_problem(error), "Name a folder of herohe-bridge model publish") from error


def decode_manifest(data: bytes, what: str) -> Manifest:
    """Read a manifest from bytes; `what` names it in errors."""
    if len(data) > MAX_MANIFEST_BYTES:
        raise ModelFileError(f"{what} is too large for a manifest", _GET_AGAIN)
    try:
        return msgspec.json.decode(data, type=Manifest)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{what} is no manifest of a model: {error}", _GET_AGAIN) from error


def encode_manifest(manifest: Manifest) -> bytes:
    """Return a manifest as it is written; the same one gives the same bytes."""
    encoded = msgspec.json.encode(manifest, order="deterministic")
    return msgspec.json.format(encoded, indent=1) + b"\n"
