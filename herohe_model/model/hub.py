"""Files fetched from the Hugging Face hub into its cache, and what to do where that fails."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import huggingface_hub
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from herohe_model.errors import ModelFileError, os_problem

_PROXIES: Final = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")


@dataclass(frozen=True)
class HubSource:
    """A repository of the hub, and how to speak of what is fetched from it.

    Attributes
    ----------
    repository
        ``owner/name``.
    what
        What is fetched, in the plural: "The weights of uni_v1".
    elsewhere
        The other way to it, after "or".
    licence
        "" where it is not known.
    revision
        A branch, tag or commit; None for the newest.
    """

    repository: str
    what: str
    elsewhere: str
    licence: str = ""
    revision: str | None = None


def hub_file(source: HubSource, name: str) -> Path | None:
    """Fetch a file into the cache of the hub, where it is not there already.

    The hub's own variables hold: ``HF_TOKEN``, ``HF_HOME``, ``HF_ENDPOINT``, ``HF_HUB_OFFLINE``.

    Returns
    -------
    Path or None
        None where the repository holds no such file.

    Raises
    ------
    ModelFileError
        If it cannot be had: why, and what to do.
    """
    try:
        return Path(huggingface_hub.hf_hub_download(source.repository, name, revision=source.revision))
    except Exception as error:  # the hub's, and those of the HTTP library of its version
        # Not found here and not looked for there is told as an entry that is not found, too.
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            return None
        raise _refusal(source, error) from error


def _refusal(source: HubSource, error: Exception) -> ModelFileError:
    """Turn whatever the hub raises into what happened and what to do."""
    chain = list(_chain(error))
    page = f"https://huggingface.co/{source.repository}"
    what = f"{source.what} could not be fetched"
    elsewhere = f"or {source.elsewhere}"
    status = next((_status(e) for e in chain if _status(e)), None)
    has_token = huggingface_hub.get_token() is not None
    if any(isinstance(e, GatedRepoError) for e in chain) or status == 403:
        asked = "has not granted your account access yet" if has_token else "gives them to accounts only"
        remedy = (
            f"Ask for access on {page} and wait until it is granted"
            if has_token
            else f"Ask for access on {page}, then run `hf auth login` or set HF_TOKEN, and fetch again"
        )
        licence = f" under {source.licence}" if source.licence else ""
        return ModelFileError(f"{what}: {source.repository}{licence} {asked}", f"{remedy}; {elsewhere}")
    if status == 401 or any(isinstance(e, RepositoryNotFoundError) for e in chain):
        token = "your token is not valid there" if has_token else "without a token it shows none of the name"
        return ModelFileError(
            f"{what}: {source.repository} is not there, or not for you ({token})",
            f"Look at {page}, and run `hf auth login` or set HF_TOKEN; {elsewhere}",
        )
    if any(isinstance(e, OfflineModeIsEnabled) for e in chain) or huggingface_hub.constants.HF_HUB_OFFLINE:
        return ModelFileError(
            f"{what}: HF_HUB_OFFLINE is set, and they are not in the hub's cache",
            f"Unset it and fetch again; {elsewhere}",
        )
    proxy = next((name for name in _PROXIES if os.environ.get(name)), None)
    if proxy is not None and any("Proxy" in type(e).__name__ for e in chain):
        return ModelFileError(
            f"{what}: the proxy that {proxy} names refused the connection, or is not there",
            f"Correct or unset {proxy}; {elsewhere}",
        )
    if isinstance(error, OSError) and not isinstance(error, HfHubHTTPError) and error.errno is not None:
        return ModelFileError(f"{what}: {os_problem(error)}", "Check the free space and the cache's folder")
    if status is not None:
        return ModelFileError(f"{what}: the hub answered with {status}", f"Try again later; {elsewhere}")
    through = f" (through the proxy of {proxy})" if proxy else ""
    return ModelFileError(
        f"{what}: {huggingface_hub.constants.ENDPOINT} cannot be reached{through}",
        f"Check the network, and HTTPS_PROXY where there is a proxy; {elsewhere}",
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None
