"""The thread that scores: networks on a device, and composites on their way through it."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from herohe_model.engines.openvino_engine import OpenVinoGraph, OpenVinoPass
from herohe_model.engines.torch_engine import Forward, set_threads_of_this_thread, torch_pass
from herohe_model.errors import DeviceError, ModelFileError
from herohe_model.model.card import ModelCard
from herohe_model.model.compute import EngineName, Precision
from herohe_model.model.network import OrdinalNetwork
from herohe_model.model.score import CompositeScore, mean_score, share_out

_TOO_SMALL: Final = "Free memory there, or try another --device or a model with a smaller backbone"
_OTHER_DEVICE: Final = "Check its driver, or choose another --device"
_VERIFY: Final = "Check it with herohe-bridge model verify"

Task = tuple[NDArray[np.uint8], "Future[CompositeScore]"]
Tasks = queue.SimpleQueue["Task | None"]


def stop_engine(tasks: Tasks, thread: threading.Thread) -> None:
    """Cancel what has not begun, and end the thread that runs an engine."""
    while True:
        try:
            task = tasks.get_nowait()
        except queue.Empty:
            break
        if task is not None:
            future = task[1]
            future.cancel()
            # Without this, who waits for several futures at once would wait for ever.
            future.set_running_or_notify_cancel()
    tasks.put(None)
    if thread is not threading.current_thread():
        thread.join()


class Engine:
    """What the scorer's thread works with: networks on the device, staging memory, the queue.

    Parameters
    ----------
    engine
        What computes them; OpenVINO on the CPU alone.
    """

    def __init__(
        self,
        card: ModelCard,
        networks: list[OrdinalNetwork],
        device: torch.device,
        precision: Precision,
        threads: int,
        what: str,
        engine: EngineName = "torch",
    ) -> None:
        self.tasks: Tasks = queue.SimpleQueue()
        self.card = card
        self.device = device
        self.precision = precision
        self.threads = threads
        self.what = what
        self.biases = [n.head.biases().numpy() for n in networks]
        try:
            self._forward = self._prepare(engine, networks)
            # On CUDA the pixels of one composite are copied while another is computed.
            slots = [_Slot(card.side_px, device) for _ in range(2 if device.type == "cuda" else 1)]
        except RuntimeError as error:
            why = str(error).partition("\n")[0]
            raise DeviceError(f"{device} cannot hold the model {card.name}: {why}", _TOO_SMALL) from error
        self._free = deque(slots)
        self._begun: deque[tuple[_Slot, Future[CompositeScore]]] = deque()

    def run(self) -> None:
        """Work until None comes out of the queue."""
        set_threads_of_this_thread(self.threads)
        with torch.inference_mode():
            while self._step():
                pass
            while self._begun:
                self._finish()

    def _step(self) -> bool:
        """Begin one composite, or finish one; False at the end. Keeps no reference to any."""
        try:
            # With a composite on the device, only what is waiting already is put beside it.
            task = self.tasks.get(block=not self._begun)
        except queue.Empty:
            self._finish()
            return True
        if task is None:
            return False
        pixels, future = task
        if future.set_running_or_notify_cancel():
            slot = self._free.popleft()
            try:
                self._launch(slot, pixels)
            except Exception as error:  # whatever it is, it belongs to this composite
                self._free.append(slot)
                future.set_exception(self._explain(error))
            else:
                self._begun.append((slot, future))
                if not self._free:
                    self._finish()
        return True

    def _launch(self, slot: _Slot, pixels: NDArray[np.uint8]) -> None:
        x = slot.stage(pixels)
        with fixed_kernels(self.device):
            slot.take(self._forward(x))

    def _prepare(self, engine: EngineName, networks: list[OrdinalNetwork]) -> Forward:
        """Put the networks where they are computed, and return what computes them."""
        if engine == "openvino":
            graph = OpenVinoGraph.of(networks, self.card.side_px)
            compiled = OpenVinoPass(graph, self.precision, self.threads)
            return lambda x: torch.from_numpy(compiled(x.numpy()))
        return torch_pass(networks, self.device, self.precision)

    def _finish(self) -> None:
        """Wait for the composite that was begun first."""
        slot, future = self._begun.popleft()
        try:
            maps = slot.result()
            if not np.isfinite(maps).all():
                raise ModelFileError(f"{self.what} gave a composite no finite score", _VERIFY)
            members = zip(maps, self.biases, strict=True)
            score = mean_score([share_out(linear, biases, self.card.grid) for linear, biases in members])
        except Exception as error:
            future.set_exception(self._explain(error))
        else:
            future.set_result(score)
        self._free.append(slot)

    def _explain(self, error: Exception) -> Exception:
        words = str(error)
        no_memory = isinstance(error, (torch.OutOfMemoryError, MemoryError))
        if no_memory or "can't allocate memory" in words or "bad_alloc" in words:
            return DeviceError(
                f"{self.device} has not enough memory for a composite of {self.card.side_px} px", _TOO_SMALL
            )
        if isinstance(error, torch.AcceleratorError):
            return DeviceError(f"{self.device} failed: {str(error).splitlines()[0]}", _OTHER_DEVICE)
        return error


class _Slot:
    """Memory on both sides for one composite on its way; on CUDA pinned, with a stream of its own."""

    def __init__(self, side: int, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._host = torch.empty((1, side, side, 3), dtype=torch.uint8, pin_memory=self._cuda)
        self._pixels = self._host if device.type == "cpu" else torch.empty_like(self._host, device=device)
        self._linear = torch.empty(0)
        if self._cuda:
            self._stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's own is not typed
            self._done: torch.cuda.Event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # torch's own is not typed

    def stage(self, pixels: NDArray[np.uint8]) -> torch.Tensor:
        """Copy the pixels; what is launched after this finds them on the device."""
        np.copyto(self._host.numpy()[0], pixels)
        if self._cuda:
            with torch.cuda.stream(self._stream):
                self._pixels.copy_(self._host, non_blocking=True)
            torch.cuda.current_stream(self._pixels.device).wait_stream(self._stream)
        elif self._pixels is not self._host:
            self._pixels.copy_(self._host)
        return self._pixels

    def take(self, linear: torch.Tensor) -> None:
        """Begin to bring (members, bits, h, w) back."""
        if self._cuda:
            if self._linear.shape != linear.shape:
                self._linear = torch.empty(linear.shape, dtype=torch.float32, pin_memory=True)
            self._linear.copy_(linear, non_blocking=True)
            self._done.record(torch.cuda.current_stream(linear.device))
        else:
            self._linear = linear.cpu()

    def result(self) -> NDArray[np.float32]:
        """Wait for what was taken: (members, bits, h, w)."""
        if self._cuda:
            self._done.synchronize()
        return np.asarray(self._linear.numpy(), dtype=np.float32)


@contextmanager
def fixed_kernels(device: torch.device) -> Iterator[None]:
    """Deterministic kernels and whole float32, for the launches within."""
    if device.type != "cuda":
        yield
        return
    products = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(products)
