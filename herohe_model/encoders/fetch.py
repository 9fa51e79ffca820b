"""Weights fetched from the Hugging Face hub, and what to do where that fails."""

from __future__ import annotations

import os
from collections.abc import Iterator
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

from herohe_model.encoders.table import Encoder
from herohe_model.encoders.weights import CONFIG, NAMES, WeightsFile
from herohe_model.errors import ModelFileError, os_problem

_ELSEWHERE: Final = "or copy the file and its config.json from elsewhere, and name it with --weights"
_PROXIES: Final = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")


def fetch_weights(encoder: Encoder) -> WeightsFile:
    """Fetch an encoder's weights into the cache of the Hugging Face hub; those that are there stay.

    The hub's own variables hold: ``HF_TOKEN``, ``HF_HOME``, ``HF_ENDPOINT``, ``HF_HUB_OFFLINE``.

    Raises
    ------
    ModelFileError
        If they cannot be had: why, and what to do.
    """
    if not encoder.source:
        raise ModelFileError(f"{encoder.name} has no source to fetch from", "Name its weights with --weights")
    try:
        config = _get(encoder.source, CONFIG)
        for name in NAMES:
            path = _get(encoder.source, name)
            if path is not None:
                return WeightsFile(path, config)
    except Exception as error:  # the hub's, and those of the HTTP library of its version
        raise _refusal(encoder, error) from error
    raise ModelFileError(
        f"{encoder.source} holds neither {' nor '.join(NAMES)}",
        "Look at its page for the file of its weights, and name that with --weights",
    )


def _get(source: str, name: str) -> Path | None:
    """Return a file of a repository; None where that does not hold it."""
    try:
        return Path(huggingface_hub.hf_hub_download(source, name))
    except LocalEntryNotFoundError:
        # Not found here and not looked for there, which is told as an entry that is not found.
        raise
    except EntryNotFoundError:
        return None


def _refusal(encoder: Encoder, error: Exception) -> ModelFileError:
    """Turn whatever the hub raises into what happened and what to do."""
    chain = list(_chain(error))
    page = f"https://huggingface.co/{encoder.source}"
    what = f"The weights of {encoder.name} could not be fetched"
    status = next((_status(e) for e in chain if _status(e)), None)
    has_token = huggingface_hub.get_token() is not None
    if any(isinstance(e, GatedRepoError) for e in chain) or status == 403:
        asked = "has not granted your account access yet" if has_token else "gives them to accounts only"
        remedy = (
            f"Ask for access on {page} and wait until it is granted"
            if has_token
            else f"Ask for access on {page}, then run `hf auth login` or set HF_TOKEN, and fetch again"
        )
        licence = f" under {encoder.licence}" if encoder.licence else ""
        return ModelFileError(f"{what}: {encoder.source}{licence} {asked}", f"{remedy}; {_ELSEWHERE}")
    if status == 401 or any(isinstance(e, RepositoryNotFoundError) for e in chain):
        token = "your token is not valid there" if has_token else "without a token it shows none of the name"
        return ModelFileError(
            f"{what}: {encoder.source} is not there, or not for you ({token})",
            f"Look at {page}, and run `hf auth login` or set HF_TOKEN; {_ELSEWHERE}",
        )
    if any(isinstance(e, OfflineModeIsEnabled) for e in chain) or huggingface_hub.constants.HF_HUB_OFFLINE:
        return ModelFileError(
            f"{what}: HF_HUB_OFFLINE is set, and they are not in the hub's cache",
            f"Unset it and fetch again; {_ELSEWHERE}",
        )
    proxy = next((name for name in _PROXIES if os.environ.get(name)), None)
    if proxy is not None and any("Proxy" in type(e).__name__ for e in chain):
        return ModelFileError(
            f"{what}: the proxy that {proxy} names refused the connection, or is not there",
            f"Correct or unset {proxy}; {_ELSEWHERE}",
        )
    if isinstance(error, OSError) and not isinstance(error, HfHubHTTPError) and error.errno is not None:
        return ModelFileError(f"{what}: {os_problem(error)}", "Check the free space and the cache's folder")
    if status is not None:
        return ModelFileError(f"{what}: the hub answered with {status}", f"Try again later; {_ELSEWHERE}")
    through = f" (through the proxy of {proxy})" if proxy else ""
    return ModelFileError(
        f"{what}: {huggingface_hub.constants.ENDPOINT} cannot be reached{through}",
        f"Check the network, and HTTPS_PROXY where there is a proxy; {_ELSEWHERE}",
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
