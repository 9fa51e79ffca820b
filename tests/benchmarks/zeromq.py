"""Composites over ZeroMQ, beside the same scorer called in this process; both measured in this run, in turns.

Run by hand: ``python tests/benchmarks/zeromq.py``. First, with a scorer that computes nothing, what a
composite costs more on its way through the server: over ipc, as Python clients send it, over loopback TCP,
as QuPath sends it, and over TCP with CURVE; in wall time and in processor time of all processes. Then the
throughput of a network of real size, the ratio of the server's to the process's own (at least 0.97).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import psutil
from numpy.typing import NDArray

from bridge.client.address import ServerAddress
from bridge.client.child_server import StartReport
from bridge.client.client import Client
from bridge.client.locate import FixedServer
from bridge.protocol.worker_messages import WorkerSettings
from bridge.server.server import Server, ServerSettings
from bridge.server.worker import run_worker
from bridge.transport.curve import KeyPair, write_pair
from bridge.transport.discovery import ServerRecord
from herohe_model.child_process import end_child, start_child, when_parent_ends
from herohe_model.engines.scorer import Scorer
from herohe_model.model.card import ModelCard, read_card
from herohe_model.model.checkpoint import save_model
from herohe_model.model.compute import Compute
from herohe_model.model.new_model import new_model
from herohe_model.model.score import CompositeScore, CompositeScorer, ScorerInfo

Submit = Callable[[NDArray[np.uint8]], "Future[CompositeScore]"]


class NothingScorer:
    """Takes each composite as the real one does, by a copy to where it is computed, and computes nothing."""

    def __init__(self, card: ModelCard, sha256: str) -> None:
        self.info = ScorerInfo(card, sha256, "cpu", "fp32", "nothing")
        self._pool = ThreadPoolExecutor(1)
        self._staged = np.zeros((card.side_px, card.side_px, 3), dtype=np.uint8)

    head = None

    def submit(self, pixels: NDArray[np.uint8]) -> Future[CompositeScore]:
        return self._pool.submit(self._score, pixels)

    def close(self) -> None:
        self._pool.shutdown()

    def _score(self, pixels: NDArray[np.uint8]) -> CompositeScore:
        np.copyto(self._staged, pixels)
        cells, bits = self.info.card.grid**2, len(self.info.card.steps)
        return CompositeScore(np.zeros(bits, np.float32), np.zeros((cells, bits), np.float32))


def load_nothing(settings: WorkerSettings) -> CompositeScorer:
    """Load a worker's scorer that computes nothing."""
    return NothingScorer(*read_card(Path(settings.model)))


@contextmanager
def serving(model: Path, *more: str) -> Iterator[ServerRecord]:
    """Run a server in a process of its own, as always, by this file's ``--serve``."""
    child = start_child([__file__, "--serve", str(model), *more], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        report = msgspec.json.decode(child.stdout.readline(), type=StartReport)
        if report.ready is None:
            raise report.error()
        yield report.ready
    finally:
        end_child(child)


def serve(model: Path, allowed: Path | None) -> None:
    """Be the server: of the real model, or of one that computes nothing, with CURVE beside."""
    settings = ServerSettings(model, workers=(Compute("cpu"),))
    if allowed is not None:
        settings = ServerSettings(
            model,
            workers=(Compute("cpu"),),
            worker_arguments=(__file__, "--nothing"),
            binds=("tcp://127.0.0.1:*",),
            key=KeyPair.new(),
            allow=allowed,
        )
    server = Server(settings)
    when_parent_ends(server.cut_off)
    server.run(lambda record: os.write(1, StartReport(ready=record).line()))


def seconds_each(submit: Submit, pictures: list[NDArray[np.uint8]], count: int, ahead: int = 4) -> float:
    """Return the wall time of a composite, with `ahead` of them on their way at a time."""
    waiting: list[Future[CompositeScore]] = []
    began = time.perf_counter()
    for number in range(count):
        waiting.append(submit(pictures[number % len(pictures)]))
        if len(waiting) == ahead:
            waiting.pop(0).result()
    for future in waiting:
        future.result()
    return (time.perf_counter() - began) / count


def throughput(model: Path, pictures: list[NDArray[np.uint8]], count: int, rounds: int, threads: int) -> None:
    """Print the ratio of throughputs for a real network."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    backbone = read_card(model)[0].backbone
    ours: list[float] = []
    theirs: list[float] = []
    with (
        serving(model) as record,
        Client(FixedServer(ServerAddress.of(record))) as client,
        Scorer.load(model, Compute("cpu"), threads=threads) as scorer,
    ):
        for submit in (client.submit, scorer.submit):
            submit(pictures[0]).result()
        for number in range(rounds):
            # In turns, and each first in its turn: the machine's other work falls on both alike.
            order = [(client.submit, ours), (scorer.submit, theirs)]
            for submit, times in order if number % 2 else reversed(order):
                times.append(seconds_each(submit, pictures, count))
            print(f"  {backbone}: server {ours[-1]:.3f} s, in process {theirs[-1]:.3f} s a composite")
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    median, best = statistics.median(ratios), min(theirs) / min(ours)
    print(f"throughput, server / in process: median {median:.3f}, best / best {best:.3f} (at least 0.97)")


def processor_time(processes: Sequence[psutil.Process]) -> float:
    """Return the processor time of processes up to now, s."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def overhead(model: Path, home: Path, pictures: list[NDArray[np.uint8]], count: int, rounds: int) -> None:
    """Print what a composite costs more than in process, for each way through the server."""
    card, sha256 = read_card(model)
    keys, allowed = KeyPair.new(), home / "allowed"
    write_pair(allowed, "client", keys)
    local = NothingScorer(card, sha256)
    with serving(model, str(allowed)) as record:
        quickest = ServerAddress.of(record)
        remote = ServerAddress(record.remote_endpoints[0], server_key=record.public_key, key=keys)
        ways = {
            "ipc": quickest,
            "tcp": replace(quickest, endpoint=record.endpoints[-1]),
            "tcp, CURVE": remote,
        }
        server = psutil.Process(record.pid)
        everybody = [psutil.Process(), server, *server.children(recursive=True)]
        for name, address in ways.items():
            with Client(FixedServer(address)) as client:
                for submit in (client.submit, local.submit):
                    seconds_each(submit, pictures, 8)
                for label, ahead in (("one at a time", 1), ("four under way", 4)):
                    wall, processor = [], []
                    for _ in range(rounds):
                        began = processor_time(everybody)
                        there = seconds_each(client.submit, pictures, count, ahead)
                        between = processor_time(everybody)
                        here = seconds_each(local.submit, pictures, count, ahead)
                        wall.append(there - here)
                        processor.append((2 * between - began - processor_time(everybody)) / count)
                    median, best, busy = (
                        1000 * ms for ms in (statistics.median(wall), min(wall), statistics.median(processor))
                    )
                    print(f"  {name}, {label}: {median:.1f} ms more than in process (best {best:.1f}),")
                    print(f"    {busy:.1f} ms of processors")
    local.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--composites", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--skip-throughput", action="store_true")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        os.environ["HEROHE_RUNTIME_DIR"] = str(home / "run")
        model = home / "model.safetensors"
        card, state = new_model(args.backbone, head="free", target="ihc")
        save_model(model, card, state)
        shape = (card.side_px, card.side_px, 3)
        pictures = [rng.integers(0, 256, shape, dtype=np.uint8) for _ in range(4)]
        print(f"a composite of {card.side_px} px, {pictures[0].nbytes / 1e6:.1f} MB:")
        overhead(model, home, pictures, 40, args.rounds)
        if not args.skip_throughput:
            throughput(model, pictures, args.composites, args.rounds, args.threads)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--nothing"]:
        run_worker(load_nothing)
    elif sys.argv[1:2] == ["--serve"]:
        serve(Path(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else None)
    else:
        main()
