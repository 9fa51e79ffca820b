"""A dask scheduler or worker as a process of its own, that can be told to misbehave.

Usage: dask_process.py, with :class:`Part` as JSON on standard input; ends with the process that started it.
Slides named ``gate...`` wait for the file ``gate`` of the peers' folder, and say in ``begun-PID`` that they
do; slides named ``deadly...`` end the process.
"""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import msgspec

from herohe_model.child_process import read_settings, when_parent_ends


class Part(msgspec.Struct, frozen=True):
    """What to be: a worker of `scheduler`, or a scheduler when that is "".

    Attributes
    ----------
    folder
        Of the peers; a worker's own files lie in a folder below it.
    version
        Pretend to be of this version of herohe-bridge.
    broken
        Fail at every slide.
    hidden
        A folder that is not there for this worker: it plays another machine.
    tls
        Arguments of dask's ``Security``.
    allowed_failures
        Of a scheduler; dask's setting of that name.
    """

    folder: str
    scheduler: str = ""
    version: str = ""
    broken: bool = False
    hidden: str = ""
    tls: dict[str, str] = {}
    allowed_failures: int = 3


def _misbehave(part: Part) -> None:
    """Wrap what a worker does."""
    from bridge.cluster import worker as cluster_worker
    from bridge.scoring.slide import failed_result
    from herohe_model.errors import ModelFileError

    score_job, read_card = cluster_worker.score_job, cluster_worker.read_card

    def scored(job: Any, scorer: Any, **more: Any) -> Any:
        if job.slide.startswith("deadly"):
            os._exit(1)
        if job.slide.startswith("gate"):
            Path(part.folder, f"begun-{os.getpid()}").touch()
            while not Path(part.folder, "gate").exists() and not more["cancelled"]():
                threading.Event().wait(0.02)
        if part.broken:
            Path(part.folder, f"begun-{os.getpid()}").touch()
            return failed_result(RuntimeError("no GPU"), entry=job.entry, slide=job.slide)
        return score_job(job, scorer, **more)

    def card(path: Path) -> Any:
        if part.hidden and path.is_relative_to(part.hidden):
            raise ModelFileError(f"{path} is not there")
        return read_card(path)

    cluster_worker.score_job = scored
    cluster_worker.read_card = card
    if part.version:
        cluster_worker.__version__ = part.version


async def _scheduler(part: Part) -> None:
    import dask
    from distributed import Scheduler, Security

    dask.config.set({"distributed.scheduler.allowed-failures": part.allowed_failures})
    more: dict[str, Any] = {"security": Security(require_encryption=True, **part.tls)} if part.tls else {}
    async with Scheduler(host="127.0.0.1", port=0, dashboard=False, **more) as scheduler:
        print(scheduler.address, flush=True)
        await scheduler.finished()


async def _worker(part: Part) -> None:
    from distributed import Security, Worker

    _misbehave(part)
    more: dict[str, Any] = {"security": Security(require_encryption=True, **part.tls)} if part.tls else {}
    place = Path(part.folder, f"worker-{os.getpid()}")
    worker = Worker(part.scheduler, nthreads=1, local_directory=str(place), dashboard=False, **more)
    async with worker:
        print(worker.address, flush=True)
        await worker.finished()


if __name__ == "__main__":
    part_ = msgspec.json.decode(read_settings(), type=Part)
    when_parent_ends(lambda: os._exit(0))
    asyncio.run(_worker(part_) if part_.scheduler else _scheduler(part_))
