"""An encoder at work on a device: batches of patches in, their features out.

Every forward pass has the same number of patches, the last of a slide filled up with black ones: so a
patch's feature depends on nothing but its pixels, the encoder, the device, the engine and the precision, not
on how many patches a slide has or which lie beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from herohe_model.encoders.golden import (
    EncoderRecord,
    apart,
    golden_pictures,
    make_record,
)
from herohe_model.encoders.network import EncoderNetwork, check_network, load_network
from herohe_model.encoders.table import Encoder
from herohe_model.encoders.weights import LoadedWeights
from herohe_model.engines.cache import MeasurementCache
from herohe_model.engines.choice import WORTH_MEASURING, Choice, engine_label, engine_versions
from herohe_model.engines.openvino_engine import OpenVinoGraph, OpenVinoPass
from herohe_model.engines.thread import fixed_kernels
from herohe_model.engines.torch_engine import set_threads_of_this_thread
from herohe_model.engines.trials import SMALL_MACHINE, Measured, Trial
from herohe_model.errors import DeviceError, HeroheError, OptionError
from herohe_model.model.compute import AUTO, Compute, EngineName, Precision
from herohe_model.model.device import choose_device, choose_precision, device_label, find_devices
from herohe_model.model.machine import default_threads, machine_memory

BATCH_CPU: Final = 8
BATCH_GPU: Final = 32
"""Patches of a forward pass: on a CPU, more were not faster (ViT-S/16: 51 a second by 8, 52 by 16)."""

COLUMN_PX: Final = 8192
"""Height of a batch whose patches lie one below the other, as they travel to a server, at most."""

ENGINES_APART: Final = 0.03
"""How far an engine's features may lie from PyTorch's in float32, of their length: bf16 has about 0.01."""

_ALIKE: Final = 0.9
"""An engine that needs this share of another's time is not worth less exact numbers."""
_RUNS: Final = 3
_DEEPER: Final = "Leave out --engine and --precision, or name fp32 and torch"

Embed = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""From a whole batch (batch, side, side, 3) to (batch, dimension)."""


@dataclass(frozen=True)
class EmbedderInfo:
    """What embeds: an encoder, and what computes it, as they stand in files of features.

    Attributes
    ----------
    record
        What the encoder is, and its golden features.
    batch
        Patches of a forward pass.
    """

    encoder: Encoder
    record: EncoderRecord
    device: str
    precision: str
    engine: str
    batch: int


class Embedder:
    """An encoder in this process; thread-safe, computed by a thread of its own. A context manager.

    Parameters
    ----------
    loaded
        The encoder's weights, as :func:`~herohe_model.encoders.weights.load_weights` reads them.
    compute
        As for scoring: on a CPU, ``auto`` takes the fastest engine that agrees with PyTorch, measured once.
    threads
        Threads of a forward pass on the CPU; None for the physical cores.

    Raises
    ------
    ModelFileError
        If the weights do not fit.
    DeviceError
        If the device or the engine is not there, or computes something else than PyTorch in float32.
    OptionError
        If timm cannot build the encoder.
    """

    def __init__(self, loaded: LoadedWeights, compute: Compute = AUTO, *, threads: int | None = None) -> None:
        device = choose_device(compute.device)
        threads = threads or default_threads()
        check_network(loaded.encoder)
        network = load_network(loaded.encoder, loaded.state, str(loaded.path))
        self._pool = ThreadPoolExecutor(
            1, "herohe-embedder", initializer=set_threads_of_this_thread, initargs=(threads,)
        )
        try:
            begun = self._pool.submit(_begin, loaded, network, device, compute, threads)
            self.info, self._embed = begun.result()
        except BaseException:
            self.close()
            raise

    def submit(self, pixels: NDArray[np.uint8]) -> Future[NDArray[np.float32]]:
        """Embed some patches in the background.

        Parameters
        ----------
        pixels
            Shape (n, side, side, 3), uint8, R, G, B, n at most ``info.batch`` and side the encoder's. It must
            not change until the future is done.

        Returns
        -------
        Future
            Of (n, dimension), float32.
        """
        side, batch = self.info.encoder.input_px, self.info.batch
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (side, side, 3) or len(pixels) > batch:
            raise OptionError(
                f"Patches for {self.info.encoder.name} are uint8 of the shape (up to {batch}, {side}, "
                f"{side}, 3), not {pixels.dtype} of {pixels.shape}"
            )
        return self._pool.submit(self._whole, pixels)

    def _whole(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        missing = self.info.batch - len(pixels)
        if missing:
            pixels = np.concatenate([pixels, np.zeros((missing, *pixels.shape[1:]), np.uint8)])
        try:
            return self._embed(pixels)[: len(pixels) - missing]
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise DeviceError(
                f"{self.info.device} has not enough memory for {self.info.batch} patches",
                "Free memory there, or take a smaller encoder",
            ) from error
        except torch.AcceleratorError as error:
            raise DeviceError(
                f"{self.info.device} failed: {str(error).splitlines()[0]}", "Choose another --device"
            ) from error

    def close(self) -> None:
        """Cancel what has not begun, and end the thread; may be called twice."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Embedder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _begin(
    loaded: LoadedWeights, network: EncoderNetwork, device: torch.device, compute: Compute, threads: int
) -> tuple[EmbedderInfo, Embed]:
    """Record what the encoder gives, choose what computes it, and check that this gives the same."""
    encoder = loaded.encoder
    record = make_record(encoder, network, loaded.sha256)
    batch = min(BATCH_CPU if device.type == "cpu" else BATCH_GPU, max(1, COLUMN_PX // encoder.input_px))
    passes = _Passes(network, encoder, device, batch, threads)
    choice = _choose(passes, record, compute)
    embed = passes.make(choice.engine, choice.precision)
    far = apart(_golden(embed, encoder.input_px, batch), np.array(record.golden))
    if not far <= ENGINES_APART:
        raise DeviceError(
            f"{engine_label(choice.engine)} in {choice.precision} on {device} gives features of "
            f"{encoder.name} that are {far:.2g} of their length from PyTorch's in fp32",
            _DEEPER,
        )
    info = EmbedderInfo(
        encoder, record, device_label(device), choice.precision, engine_label(choice.engine), batch
    )
    return info, embed


class _Passes:
    """The ways to compute an encoder on a device."""

    def __init__(
        self, network: EncoderNetwork, encoder: Encoder, device: torch.device, batch: int, threads: int
    ) -> None:
        self._network = network
        self._shape = (batch, encoder.input_px, encoder.input_px, 3)
        self._threads = threads
        self._graph: OpenVinoGraph | None = None
        self.encoder = encoder
        self.device = device
        self.batch = batch

    def make(self, engine: EngineName, precision: Precision) -> Embed:
        """Return what computes a batch; raises a DeviceError where it cannot."""
        if engine == "openvino":
            self._graph = self._graph or OpenVinoGraph.of_module(self._network, self._shape)
            return OpenVinoPass(self._graph, precision, self._threads)
        try:
            placed = self._network.to(self.device)
        except RuntimeError as error:
            why = str(error).partition("\n")[0]
            raise DeviceError(
                f"{self.device} cannot hold {self.encoder.name}: {why}", "Take a smaller encoder"
            ) from error
        bf16 = precision == "bf16"

        def embed(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
            autocast = torch.autocast(self.device.type, torch.bfloat16) if bf16 else nullcontext()
            with torch.inference_mode(), fixed_kernels(self.device), autocast:
                found: NDArray[np.float32] = placed(torch.from_numpy(pixels).to(self.device)).cpu().numpy()
            return found

        return embed

    def facts(self, asked: Compute, sha256: str) -> Mapping[str, Any]:
        """Return what the choice of an engine depends on."""
        return {
            "weights": sha256,
            "encoder": msgspec.to_builtins(self.encoder),
            "cpu": find_devices()[-1].model,
            "threads": self._threads,
            "batch": self.batch,
            "engine": asked.engine,
            "precision": asked.precision,
            "versions": engine_versions(),
        }

    def operations(self) -> int:
        """Count the floating-point operations of a batch, without doing them."""
        with torch.device("meta"):
            network = EncoderNetwork(self.encoder).eval()
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            network(torch.zeros(self._shape, device="meta"))
        return int(counter.get_total_flops())


def _choose(passes: _Passes, record: EncoderRecord, asked: Compute) -> Choice:
    """Choose engine and precision by what was asked for, what is remembered, or a measurement."""
    if passes.device.type != "cpu":
        if asked.engine == "openvino":
            raise OptionError(
                f"OpenVINO computes on the CPU, not on {passes.device}",
                "Use --device cpu, or leave out --engine",
            )
        return Choice("torch", choose_precision(asked.precision, passes.device))
    exact: Precision = "bf16" if asked.precision == "bf16" else "fp32"
    named: EngineName = "openvino" if asked.engine == "openvino" else "torch"
    if "auto" not in (asked.engine, asked.precision):
        return Choice(named, exact)
    small = asked.engine == "auto" and machine_memory() < SMALL_MACHINE
    others: list[tuple[EngineName, Precision]] = [] if small else [("openvino", "bf16"), ("openvino", "fp32")]
    if choose_precision(asked.precision, passes.device) == "bf16":
        others.append(("torch", "bf16"))
    others = [pair for pair in others if asked.leaves_open(*pair)]
    if not others or passes.operations() < WORTH_MEASURING:
        return Choice(named, exact)

    def measure() -> Measured:
        return Measured(_trials(passes, record, others))

    facts = passes.facts(asked, record.weights_sha256)
    measured = MeasurementCache("embedders").recall(facts, Measured, measure) or measure()
    usable = [t for t in measured.trials if not t.refused and asked.leaves_open(t.engine, t.precision)]
    if not usable:
        why = "; ".join(f"{t.engine} in {t.precision}: {t.refused}" for t in measured.trials if t.refused)
        raise DeviceError(f"{passes.encoder.name} cannot be computed as asked: {why}", _DEEPER)
    fastest = min(trial.seconds for trial in usable)
    # Of those that are about as fast, the most exact.
    chosen = min((t for t in usable if t.seconds <= fastest / _ALIKE), key=lambda trial: trial.apart)
    return Choice(chosen.engine, chosen.precision, measured.trials)


def _trials(
    passes: _Passes, record: EncoderRecord, others: list[tuple[EngineName, Precision]]
) -> tuple[Trial, ...]:
    """Time PyTorch in float32 and others on the drawn pictures, and compare their features."""
    golden = np.array(record.golden)
    side, batch = passes.encoder.input_px, passes.batch
    pixels = np.resize(golden_pictures(side), (batch, side, side, 3))
    found = []
    for engine, precision in [("torch", "fp32"), *others]:
        try:
            embed = passes.make(engine, precision)
            far = apart(_golden(embed, side, batch), golden)
            times = []
            for _ in range(_RUNS):
                began = time.perf_counter()
                embed(pixels)
                times.append(time.perf_counter() - began)
        except (HeroheError, RuntimeError, MemoryError) as error:
            why = error.problem if isinstance(error, HeroheError) else " ".join(str(error).split())[:300]
            found.append(Trial(engine, precision, refused=why))
            continue
        off = "" if far <= ENGINES_APART else f"its features are {far:.2g} of their length from PyTorch's"
        found.append(Trial(engine, precision, min(times) / batch, far, off))
    return tuple(found)


def _golden(embed: Embed, side: int, batch: int) -> NDArray[np.float32]:
    """Compute the features of the drawn pictures in a batch of the usual size."""
    pictures = golden_pictures(side)
    return embed(np.resize(pictures, (batch, side, side, 3)))[: len(pictures)]
