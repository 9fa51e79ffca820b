"""A published model brought into the folder of models: from a folder, an address, or the Hugging Face hub.

Every file is checked against the manifest's SHA-256 before anything is put in its place. A manifest that
comes from the same place as the files tells damage, not a forger: whoever was given a digest names it, too.
"""

from __future__ import annotations

import http.client
import os
import re
import shutil
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final

import msgspec

from herohe_model.errors import ModelFileError, OptionError, os_problem
from herohe_model.files import sha256_of
from herohe_model.model.card import MAX_FILE_BYTES, read_card
from herohe_model.model.hub import HubSource, hub_file
from herohe_model.model.library import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    MODEL,
    FileDigest,
    KeptModel,
    Manifest,
    check_file,
    decode_manifest,
    encode_manifest,
    is_model_name,
    model_slug,
    models_folder,
)

CATALOGUE_VARIABLE: Final = "HEROHE_MODEL_CATALOGUE"
"""Names a file of models that can be got by their names."""

_TIMEOUT_S: Final = 60.0
_CHUNK: Final = 1 << 20
_HUB: Final = re.compile(r"hf:([A-Za-z0-9][\w.-]{0,95}/[\w.-]{1,95})(?:@([\w./-]{1,100}))?")

Opener = Callable[[str], IO[bytes] | None]
"""Opens a file of the source by its name; None where it has none of the name."""


class CatalogueEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a model of a name comes from, and the SHA-256 of its model file."""

    name: str
    source: str
    sha256: str


class _Catalogue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    models: tuple[CatalogueEntry, ...]


def get_model(
    source: str, *, name: str | None = None, sha256: str | None = None, replace: bool = False
) -> KeptModel:
    """Fetch a model, check it, and keep it under a name.

    Parameters
    ----------
    source
        A published folder or a model file on this machine, ``https://`` of a published folder,
        ``hf:owner/name`` with ``@revision`` where one is meant, or a name of the catalogue.
    name
        To keep it under; by default it is made of the card's.
    sha256
        Of the model file, where it was told; needed where there is no manifest, and over plain http.
    replace
        Whether another model of the name makes room.

    Raises
    ------
    ModelFileError
        If it cannot be had, there is no digest, or a file is not what its digest says.
    OptionError
        If the name cannot be one, or is taken by another model.
    """
    if name is not None and not is_model_name(name):
        raise OptionError(f"{name!r} cannot be a name", "Use small letters, digits, '.', '_' and '-'")
    if sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise OptionError("A SHA-256 has 64 hexadecimal digits, in small letters", "Copy it whole")
    source, known = _looked_up(source)
    sha256 = sha256 or known
    library = models_folder()
    try:
        library.mkdir(parents=True, exist_ok=True)
        # Beside its place, so that it can be moved there; what begins with a dot is no model.
        with tempfile.TemporaryDirectory(prefix=".getting-", dir=library) as part:
            folder = Path(part, "model")
            folder.mkdir()
            manifest = _bring(source, sha256, folder)
            kept = library / (name or model_slug(manifest.name))
            return _put(KeptModel(kept.name, kept, manifest), folder, replace=replace)
    except OSError as error:
        raise ModelFileError(
            os_problem(error), f"Check the free space and the rights of {library}"
        ) from error


def _bring(source: str, sha256: str | None, folder: Path) -> Manifest:
    """Copy a source's files into a folder, and check them."""
    path = Path(source)
    if path.is_file():
        if sha256 is None:
            raise ModelFileError(
                f"Nothing says what {path} must be: a model file alone has no digest beside it",
                "Name the SHA-256 that you were told with --sha256, or get the whole published folder",
            )
        _copy(path.open("rb"), folder / MODEL, MAX_FILE_BYTES, str(path))
        _check_told(folder, sha256, str(path))
        card, _ = read_card(folder / MODEL)
        digest = FileDigest(sha256, (folder / MODEL).stat().st_size)
        manifest = Manifest(name=card.name, files={MODEL: digest})
        (folder / MANIFEST).write_bytes(encode_manifest(manifest))
        return manifest
    opened, secure = _opener(source)
    found = opened(MANIFEST)
    if found is None:
        raise ModelFileError(
            f"{source} has no {MANIFEST}, so nothing says what its files must be",
            "Ask whoever published it for the folder of herohe-bridge model publish, or get the model "
            "file alone with --sha256",
        )
    with found:
        data = found.read(MAX_MANIFEST_BYTES + 1)
    manifest = decode_manifest(data, f"{MANIFEST} of {source}")
    if not secure and sha256 is None:
        raise ModelFileError(
            f"{source} is not encrypted: whoever stands between could have changed the model and its digest",
            "Use its https address, or name the SHA-256 that you were told with --sha256",
        )
    for name, digest in manifest.files.items():
        file = opened(name)
        if file is None:
            raise ModelFileError(
                f"{source} lacks {name}, which its manifest names", "Ask whoever published it"
            )
        _copy(file, folder / name, min(digest.bytes, MAX_FILE_BYTES), f"{name} of {source}")
        check_file(folder, manifest, name)
    if sha256 is not None:
        _check_told(folder, sha256, source)
    read_card(folder / MODEL)
    (folder / MANIFEST).write_bytes(data)
    return manifest


def _put(model: KeptModel, folder: Path, *, replace: bool) -> KeptModel:
    """Move a checked folder to its place."""
    if model.folder.exists():
        same = (folder / MANIFEST).read_bytes() == _bytes(model.folder / MANIFEST)
        if not same and not replace:
            raise OptionError(
                f"Another model is here under the name {model.name}",
                "Keep this one under another --name, or replace that one with --force",
            )
        shutil.move(model.folder, folder.with_name("before"))
    os.replace(folder, model.folder)
    return model


def _check_told(folder: Path, sha256: str, what: str) -> None:
    found = sha256_of(folder / MODEL)
    if found != sha256:
        raise ModelFileError(
            f"The model of {what} is not the one that was meant: its SHA-256 begins with "
            f"{str(found)[:12]}, not {sha256[:12]}",
            "Ask whoever told you the digest",
        )


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _looked_up(source: str) -> tuple[str, str | None]:
    """Return source and digest; a name is looked up in the user's catalogue."""
    if not is_model_name(source) or Path(source).exists():
        return source, None
    catalogue = os.environ.get(CATALOGUE_VARIABLE)
    if catalogue is None:
        raise ModelFileError(
            f"There is no folder {source}, and no catalogue of models is named",
            f"Name a folder, an address or hf:owner/name; or a catalogue in {CATALOGUE_VARIABLE}",
        )
    try:
        with Path(catalogue).open("rb") as file:
            known = msgspec.json.decode(file.read(MAX_MANIFEST_BYTES), type=_Catalogue)
    except OSError as error:
        raise ModelFileError(os_problem(error), f"Correct {CATALOGUE_VARIABLE}") from error
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ModelFileError(
            f"{catalogue} is no catalogue of models: {error}", "See docs/models.md"
        ) from error
    for entry in known.models:
        if entry.name == source:
            return entry.source, entry.sha256
    names = ", ".join(entry.name for entry in known.models) or "none"
    raise ModelFileError(f"{catalogue} names no model {source}", f"It names {names}")


def _opener(source: str) -> tuple[Opener, bool]:
    """Return what opens the source's files, and whether nobody between can change them unseen."""
    hub = _HUB.fullmatch(source)
    if hub is not None:
        asked = HubSource(
            hub[1], f"The files of {hub[1]}", "copy its folder, and get that", revision=hub[2] or None
        )

        def from_hub(name: str) -> IO[bytes] | None:
            path = hub_file(asked, name)
            return None if path is None else path.open("rb")

        return from_hub, True
    scheme = urllib.parse.urlsplit(source).scheme
    if scheme in ("http", "https"):
        return lambda name: _from_address(f"{source.rstrip('/')}/{name}"), scheme == "https"
    folder = Path(source)
    if not folder.is_dir():
        raise ModelFileError(
            f"There is no published model at {source}",
            "Name its folder, its https address, or hf:owner/name",
        )
    return lambda name: (folder / name).open("rb") if (folder / name).is_file() else None, True


class _StayEncrypted(urllib.request.HTTPRedirectHandler):
    """Follows no redirection from https to http."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]  # urllib's own is not typed
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise urllib.error.URLError("it redirects to an address that is not encrypted")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _from_address(address: str) -> IO[bytes] | None:
    try:
        opened: IO[bytes] = urllib.request.build_opener(_StayEncrypted).open(address, timeout=_TIMEOUT_S)
        return opened
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise ModelFileError(f"{address} answered with {error.code}", "Try again later") from error
    except (urllib.error.URLError, OSError, ValueError) as error:
        why = getattr(error, "reason", error)
        raise ModelFileError(
            f"{address} cannot be reached: {why}",
            "Check the network, and HTTPS_PROXY where there is a proxy; or copy the folder, and get that",
        ) from error


def _copy(file: IO[bytes], to: Path, most: int, what: str) -> None:
    """Copy at most so many bytes; more is refused before it is written."""
    left = most
    try:
        with file, to.open("xb") as out:
            while chunk := file.read(min(_CHUNK, left + 1)):
                left -= len(chunk)
                if left < 0:
                    raise ModelFileError(
                        f"{what} is larger than its manifest says", "Ask whoever published it"
                    )
                out.write(chunk)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ModelFileError(f"{what} could not be read whole: {error}", "Try again") from error
