"""Reaching a dask cluster, and making sure that its workers can take part in a run."""

from __future__ import annotations

import ipaddress
import json
import logging
import ssl
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from bridge.cluster.messages import Environment, Ready, Rejected, RunSpec, decode_answer, encode
from herohe_model.errors import CancelledError, HeroheError, OptionError
from herohe_model.model.compute import Compute, engine_name

if TYPE_CHECKING:
    from distributed import Client

_log = logging.getLogger(__name__)

_PART_BYTES: Final = 32 * 2**20
_POLL_S: Final = 0.25
_NOTICE_S: Final = 30.0
_QUIET_S: Final = 2.0
_SEE: Final = "See docs/cluster.md for how to start one"


class ClusterError(HeroheError):
    """A dask cluster cannot be reached, is gone, or has workers that cannot take part."""

    code = "cluster"


@dataclass(frozen=True)
class ClusterAddress:
    """Where a cluster is, and how to prove the right to use it.

    Attributes
    ----------
    scheduler
        ``tcp://host:port``, ``tls://host:port``, or the path of a scheduler file.
    ca, certificate, key
        PEM files for TLS. None of them: dask's own configuration says.
    """

    scheduler: str
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        """Refuse half of what TLS needs."""
        if (self.ca is None) != (self.certificate is None) or (self.key and not self.ca):
            raise OptionError(
                "TLS needs the authority's certificate and one of your own",
                "Give --dask-tls-ca and --dask-tls-cert, and --dask-tls-key unless the key is in the latter",
            )

    def endpoint(self) -> str:
        """Return the scheduler's address; read it from the scheduler file if that is what was given."""
        if "://" in self.scheduler:
            return self.scheduler
        try:
            return str(json.loads(Path(self.scheduler).read_bytes())["address"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OptionError(
                f"{self.scheduler} is neither an address nor the scheduler file of a dask cluster ({error})",
                "Name tcp://HOST:PORT, tls://HOST:PORT or the file of 'dask scheduler --scheduler-file'",
            ) from error

    def is_exposed(self) -> bool:
        """Whether the connection leaves this machine unencrypted."""
        protocol, _, rest = self.endpoint().partition("://")
        host = rest.rpartition(":")[0].strip("[]")
        if protocol != "tcp" or host == "localhost":
            return False
        with suppress(ValueError):
            return not ipaddress.ip_address(host).is_loopback
        return True


def connect(address: ClusterAddress, *, timeout_s: float | None = None) -> Client:
    """Connect to a scheduler.

    Parameters
    ----------
    timeout_s
        How long it may take, and how long a lost scheduler may be gone; None for dask's own setting.

    Raises
    ------
    OptionError
        If dask is not installed, or a certificate cannot be used.
    ClusterError
        If no scheduler answers, or it has another version of dask that does not fit.
    """
    try:
        from distributed import Client, Security
    except ImportError as error:
        raise OptionError(
            f"A cluster needs dask, which is not installed here ({error})",
            "Run: pip install 'herohe-bridge[cluster]'",
        ) from error
    endpoint = address.endpoint()
    more: dict[str, Any] = {}
    if address.ca is not None:
        more["security"] = Security(
            require_encryption=True,
            tls_ca_file=str(address.ca),
            tls_client_cert=str(address.certificate),
            tls_client_key=str(address.key) if address.key else None,
        )
        _check_certificates(address)
    if timeout_s is not None:
        more["timeout"] = timeout_s
    try:
        return Client(endpoint, set_as_default=False, name="herohe-bridge", **more)
    except (OSError, ValueError, TypeError, RuntimeError, ImportError) as error:
        # TypeError: dask's answer to tls:// without certificates.
        hint = "Give --dask-tls-ca, --dask-tls-cert and --dask-tls-key" if "ssl" in str(error) else _SEE
        raise ClusterError(
            f"The dask scheduler {endpoint} cannot be reached ({str(error) or type(error).__name__})", hint
        ) from error


def _check_certificates(address: ClusterAddress) -> None:
    """Load the files once by themselves: dask would only say that it cannot connect."""
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(str(address.ca))
        context.load_cert_chain(str(address.certificate), str(address.key) if address.key else None)
    except OSError as error:
        named = ", ".join(str(path) for path in (address.ca, address.certificate, address.key) if path)
        raise OptionError(
            f"The certificates {named} cannot be used ({error})", "Give PEM files, the key without a password"
        ) from error


def gather_workers(
    client: Client,
    spec: RunSpec,
    *,
    cancelled: Callable[[], bool],
) -> tuple[RunSpec, Environment]:
    """Wait for a worker, let it decide what was left open, and have all others load the model like it.

    Returns
    -------
    tuple
        The spec that every worker of the run must meet, and what the workers are.

    Raises
    ------
    ClusterError
        If a worker cannot take part; it names the worker and what to do.
    CancelledError
        When `cancelled` said so.
    """
    first = _wait_for_one(client, spec, cancelled)
    _log.info("Loading the model on the workers")
    one = _prepare(client, spec, [first]).get(first)
    if one is None:
        raise ClusterError(f"The worker {first} ended while it loaded the model", "Look at its log")
    facts = one.facts
    compute = Compute(spec.compute.device, facts.precision, engine_name(facts.engine))
    settled = msgspec.structs.replace(spec, compute=compute, facts=facts)
    ready = _prepare(client, settled, None)
    for worker, answer in sorted(ready.items()):
        if facts.device == "cpu" and answer.cpus < facts.threads:
            _log.warning(
                f"{worker} on {answer.host} may use {answer.cpus} CPUs, and scores with {facts.threads} "
                f"threads as this machine would: set OMP_NUM_THREADS={answer.cpus} here for speed."
            )
    plural = "worker holds" if len(ready) == 1 else "workers hold"
    _log.info(f"{len(ready)} {plural} the model: {facts.device} ({facts.precision}, {facts.engine})")
    return settled, facts


def _prepare(client: Client, spec: RunSpec, workers: list[str] | None) -> dict[str, Ready]:
    """Have workers, or all, load the model, and send it to those that cannot read its file."""
    from bridge.cluster.worker import prepare

    ready: dict[str, Ready] = {}
    for attempt in range(2):
        needing: list[str] = []
        for worker, data in _run(client, prepare, encode(spec), workers=workers).items():
            answer = decode_answer(data)
            if isinstance(answer, Ready):
                ready[worker] = answer
            elif isinstance(answer, Rejected):
                raise ClusterError(
                    f"The worker {worker} on {answer.host} cannot take part: {answer.problem}", answer.remedy
                )
            else:
                needing.append(worker)
        if not needing:
            return ready
        if attempt == 0:
            send_model(client, Path(spec.model), spec.model_sha256, needing)
        workers = needing
    raise ClusterError(
        f"The worker {needing[0]} cannot read the model that it was sent", "Look at its local directory"
    )


def send_model(client: Client, model: Path, sha256: str, workers: list[str]) -> None:
    """Send the model's file to workers that cannot read it; they check it.

    Raises
    ------
    ClusterError
        If one of them could not take it.
    """
    from bridge.cluster.worker import take_model

    size = model.stat().st_size
    with model.open("rb") as file:
        for offset in range(0, max(size, 1), _PART_BYTES):
            part = file.read(_PART_BYTES)
            last = offset + len(part) >= size
            for worker, problem in _run(
                client, take_model, sha256, offset, part, last, workers=workers
            ).items():
                if problem:
                    raise ClusterError(f"{worker}: {problem.decode()}", "Look at its local directory")


def _run(
    client: Client,
    function: Callable[..., Awaitable[bytes]],
    *arguments: object,
    workers: list[str] | None,
) -> dict[str, bytes]:
    """Call a function of :mod:`bridge.cluster.worker` on workers."""
    try:
        answers = client.run(function, *arguments, workers=workers, on_error="return")
    except OSError as error:
        raise ClusterError(f"The cluster cannot be reached any more ({error})", "Look at its log") from error
    found: dict[str, bytes] = {}
    for worker, answer in answers.items():
        if isinstance(answer, bytes):
            found[worker] = answer
        elif isinstance(answer, (ImportError, AttributeError)):
            raise _cannot_import(worker, answer)
        elif not isinstance(answer, OSError):
            # One that died meanwhile is simply not there any more.
            raise ClusterError(f"The worker {worker} failed: {answer!r}", "Look at its log")
    return found


def _wait_for_one(client: Client, spec: RunSpec, cancelled: Callable[[], bool]) -> str:
    """Wait until a worker has done a task, which also wakes clusters that grow with their tasks.

    Returns
    -------
    str
        Its address.
    """
    from bridge.cluster.worker import be_there

    future = client.submit(be_there, key=f"herohe-hello-{spec.run}", pure=False)
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    told = time.monotonic() - _NOTICE_S + _QUIET_S
    while not done.wait(_POLL_S):
        if cancelled():
            future.cancel()
            raise CancelledError("Stopped while waiting for a worker")
        if time.monotonic() - told >= _NOTICE_S:
            told = time.monotonic()
            _log.info("Waiting for the cluster's first worker")
    if future.status == "finished":
        return str(future.result())
    error = future.exception() if future.status == "error" else None
    if isinstance(error, (ImportError, AttributeError)):
        raise _cannot_import("A worker", error) from error
    raise ClusterError(
        f"The cluster does not work ({error!r})" if error else "The dask scheduler is gone", "Look at its log"
    ) from error


def _cannot_import(worker: str, error: Exception) -> ClusterError:
    from bridge import __version__

    return ClusterError(
        f"{worker} cannot run herohe-bridge {__version__} ({error})",
        f"Install herohe-bridge[cluster] {__version__} where the workers run, and restart them",
    )
