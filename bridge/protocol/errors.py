"""The register of error codes: what each stands for where it comes out of a message.

Codes are stable: they stand in messages, in results and in manifests.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from herohe_model import errors
from herohe_model.errors import HeroheError, RemoteError

ERRORS: Final[Mapping[str, type[HeroheError]]] = {
    "slide": errors.SlideError,
    "slide_not_found": errors.SlideNotFoundError,
    "slide_unreadable": errors.SlideUnreadableError,
    "slide_fatal": errors.SlideFatalError,
    "slide_scale": errors.SlideScaleError,
    "unsuitable": errors.UnsuitableSlideError,
    "region": errors.RegionError,
    "model_file": errors.ModelFileError,
    "device": errors.DeviceError,
    "server": errors.ServerError,
    "server_unavailable": errors.ServerUnavailableError,
    "server_busy": errors.ServerBusyError,
    "worker_died": errors.WorkerDiedError,
    "protocol": errors.ProtocolError,
    "project": errors.ProjectError,
    "project_not_found": errors.ProjectNotFoundError,
    "qupath_not_found": errors.QuPathNotFoundError,
    "entry_damaged": errors.EntryDamagedError,
    "entry_changed": errors.EntryChangedError,
    "write_back": errors.WriteBackError,
    "option": errors.OptionError,
    "cancelled": errors.CancelledError,
}
"""Errors that come out of a message as what went into it."""

SERVER_ERRORS: Final[Mapping[str, type[HeroheError]]] = {
    "malformed": errors.ProtocolError,
    "protocol_version": errors.ProtocolError,
    "unauthorized": errors.ProtocolError,
    "busy": errors.ServerBusyError,
    "deadline": errors.ServerBusyError,
    "stopping": errors.ServerUnavailableError,
    "no_worker": errors.ServerUnavailableError,
    "wrong_shape": RemoteError,
    "wrong_model": RemoteError,
    "unknown_request": RemoteError,
    "not_allowed": RemoteError,
    "internal": RemoteError,
}
"""What a server says of a request by itself, and what that is for the client."""

LOCAL_ERRORS: Final = frozenset(
    {
        "bundle",
        "error",
        "remote",
        "cluster",
        "evaluation",
        "features",
        "install",
        "jar",
        "labels",
        "manifest",
        "outlines",
        "result_file",
        "submission",
        "table",
        "terms",
        "write",
    }
)
"""Codes of errors that no server answers with; from one that does, they are a RemoteError."""


def error_from(code: str, problem: str, remedy: str) -> HeroheError:
    """Return the error that an ``error`` reply stands for, as if it had been raised in this process."""
    kind = ERRORS.get(code) or SERVER_ERRORS.get(code, RemoteError)
    return RemoteError(problem, remedy, remote_code=code) if kind is RemoteError else kind(problem, remedy)
