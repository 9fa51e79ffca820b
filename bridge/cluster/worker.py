"""What runs on a dask worker: it holds the model once a process, and scores one slide at a time a thread.

These are plain functions of bytes. A worker that restarts, or joins later, needs no preparation: the first
slide that comes finds the model, or asks for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil
from distributed import get_worker

from bridge import __version__
from bridge.cluster.messages import (
    TOPIC,
    Abandoned,
    Answer,
    Environment,
    ModelMissing,
    Ready,
    Rejected,
    RunSpec,
    Scored,
    Step,
    decode_terms,
    encode,
    unlike,
)
from bridge.results.schema import Outcome
from bridge.scoring.job import decode_job, score_job
from bridge.scoring.progress import Progress
from bridge.versions import is_older, package_versions
from herohe_model.errors import HeroheError, ModelFileError
from herohe_model.files import sha256_of
from herohe_model.model.card import read_card
from herohe_model.model.compute import engine_name
from herohe_model.model.machine import wait_passively

if TYPE_CHECKING:
    from distributed import Worker

    from herohe_model.engines.bag_scorer import LoadedScorer

_HELD_MODELS: Final = 2
"""Models that a process keeps: drivers that share a cluster may take turns."""
_STEP_S: Final = 1.0

_lock = threading.Lock()
_held: list[tuple[tuple[str, str, int], LoadedScorer]] = []
"""Scorers with model, device as it was asked for and threads; the one used last is the last."""


def be_there() -> str:
    """Return the worker's address, as a task: it ends once a worker can import this module."""
    return str(get_worker().address)


async def prepare(spec: bytes, dask_worker: Worker) -> bytes:
    """Load the model and say what the worker is; outside of dask's threads for tasks."""
    return encode(await asyncio.to_thread(_prepare, decode_terms(spec), dask_worker))


async def take_model(sha256: str, offset: int, part: bytes, last: bool, dask_worker: Worker) -> bytes:
    """Write a part of a model file beside the worker's other files; check the whole after the `last`.

    Returns
    -------
    bytes
        What is wrong, as UTF-8; b"" if nothing is.
    """
    return await asyncio.to_thread(_take, _directory(dask_worker), sha256, offset, part, last)


async def let_go(spec: bytes) -> bytes:
    """Forget a run's model; tasks that still use it keep it to their end."""

    def forget() -> None:
        with _lock:
            _pop(decode_terms(spec))

    await asyncio.to_thread(forget)
    return b""


def score(spec: bytes, job: bytes) -> bytes:
    """Score a slide, as a task."""
    worker = get_worker()
    return encode(_score(decode_terms(spec), job, worker))


def _score(spec: RunSpec, data: bytes, worker: Worker) -> Answer:
    scorer = _join(spec, worker)
    if isinstance(scorer, ModelMissing | Rejected):
        return scorer
    job = decode_job(data)
    told = 0.0

    def progress(now: Progress) -> None:
        nonlocal told
        if time.monotonic() - told >= _STEP_S:
            told = time.monotonic()
            worker.log_event(TOPIC, encode(Step(spec.run, job.entry, now.stage, now.done, now.total)))

    unwanted = _unwanted(worker)
    result = score_job(job, scorer, progress=progress, cancelled=unwanted)
    if result.outcome is Outcome.CANCELLED:
        return Abandoned()
    return Scored(worker.address, result)


def _unwanted(worker: Worker) -> Callable[[], bool]:
    """Return the question whether the running task was cancelled, by its driver or with its driver's end."""
    key = worker.get_current_task()

    def cancelled() -> bool:
        task = worker.state.tasks.get(key)
        return task is None or task.state == "cancelled"

    return cancelled


def _prepare(spec: RunSpec, worker: Worker) -> Ready | ModelMissing | Rejected:
    scorer = _join(spec, worker)
    if isinstance(scorer, ModelMissing | Rejected):
        return scorer
    return Ready(socket.gethostname(), _environment(scorer), _cpus())


def _join(spec: RunSpec, worker: Worker) -> LoadedScorer | ModelMissing | Rejected:
    """Return the model that a run wants, or why this worker cannot take part in it."""
    host = socket.gethostname()
    if spec.version != __version__:
        where = f"the worker on {host}" if is_older(__version__, spec.version) else "the driver"
        problem = f"it has herohe-bridge {__version__}, the driver {spec.version}"
        return Rejected(worker.address, host, problem, f"Update {where}")
    try:
        scorer = _scorer(spec, _directory(worker))
    except HeroheError as error:
        return Rejected(worker.address, host, error.problem, error.remedy)
    except Exception as error:
        # Such as a GPU that is full: with an exception, every slide would come here to fail.
        problem = f"it cannot load the model ({type(error).__name__}: {error})"
        return Rejected(worker.address, host, problem, "Look at its log")
    if scorer is None:
        return ModelMissing(worker.address, host)
    name, here, there = _environment(scorer).difference(spec.facts) if spec.facts else ("", "", "")
    if name:
        return Rejected(worker.address, host, *unlike(name, here, there))
    return scorer


def _environment(scorer: LoadedScorer) -> Environment:
    return Environment(
        version=__version__,
        device=scorer.info.device,
        precision=scorer.info.precision,
        engine=scorer.info.engine,
        threads=scorer.threads,
        packages=dict(package_versions()),
        embeds=scorer.info.embeds,
    )


def _scorer(spec: RunSpec, directory: Path) -> LoadedScorer | None:
    """Return the model that a run wants, loaded once a process; None when its file is not here."""
    with _lock:
        scorer = _pop(spec) or _load(spec, directory)
        if scorer is not None:
            _held.append((_key(spec), scorer))
            # Not closed: a task may be using one, and ends it by letting go.
            del _held[:-_HELD_MODELS]
        return scorer


def _pop(spec: RunSpec) -> LoadedScorer | None:
    """Take the model of a run out of those that are held."""
    for index, (key, scorer) in enumerate(_held):
        fits = spec.compute.leaves_open(engine_name(scorer.info.engine), scorer.info.precision)
        if key == _key(spec) and fits:
            del _held[index]
            return scorer
    return None


def _load(spec: RunSpec, directory: Path) -> LoadedScorer | None:
    # The driver imports this module too, to name its functions, and computes nothing.
    wait_passively()
    from herohe_model.engines.bag_scorer import load_scorer

    for path in (Path(spec.model), directory / _name(spec.model_sha256)):
        found = ""
        with contextlib.suppress(ModelFileError):
            found = read_card(path)[1]
        if found == spec.model_sha256:
            return load_scorer(path, spec.compute, spec.threads)
    return None


def _key(spec: RunSpec) -> tuple[str, str, int]:
    return spec.model_sha256, spec.compute.device, spec.threads


def _take(directory: Path, sha256: str, offset: int, part: bytes, last: bool) -> bytes:
    beside = directory / f"{_name(sha256)}.part"
    try:
        with beside.open("r+b" if offset else "wb") as file:
            file.seek(offset)
            file.write(part)
        if last:
            if sha256_of(beside) != sha256:
                beside.unlink()
                return b"the model file arrived damaged"
            os.replace(beside, directory / _name(sha256))
    except OSError as error:
        return f"the model file cannot be written there ({error})".encode()
    return b""


def _name(sha256: str) -> str:
    return f"herohe-{sha256}.safetensors"


def _directory(worker: Worker) -> Path:
    return Path(worker.local_directory)


def _cpus() -> int:
    process = psutil.Process()
    # macOS has no affinity.
    return len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else os.cpu_count() or 1
