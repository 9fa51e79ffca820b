"""Networks compiled by OpenVINO for this machine's CPU: composites in, the heads' linear maps out.

OpenVINO is imported here alone, and only when it is asked for. The networks are exported by PyTorch without
being run, normalisation included, so the compiled graph takes the composite's bytes as they are.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from herohe_model.errors import DeviceError
from herohe_model.model.compute import Precision
from herohe_model.model.network import OrdinalNetwork

_HINTS: Final = {"fp32": "f32", "bf16": "bf16"}
_importing = threading.Lock()


def openvino_version() -> str:
    """Return the version of the OpenVINO that is installed, such as ``2026.4.1``.

    Raises
    ------
    DeviceError
        If it cannot be imported.
    """
    return str(_openvino().__version__).partition("-")[0]


@lru_cache(maxsize=1)
def openvino_precisions() -> tuple[Precision, ...]:
    """Return the precisions in which OpenVINO computes on this CPU.

    Raises
    ------
    DeviceError
        If it cannot be imported, or has no part for this CPU.
    """
    openvino = _openvino()
    try:
        found = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    except RuntimeError as error:
        raise DeviceError(f"OpenVINO does not know this CPU: {_line(error)}", "Use --engine torch") from error
    return ("fp32", "bf16") if "BF16" in found else ("fp32",)


@dataclass(frozen=True)
class OpenVinoGraph:
    """The networks of a model in one graph for composites of one size.

    In one graph, the members of an ensemble are computed one after the other in the same memory.
    """

    model: Any

    @classmethod
    def of(cls, networks: Sequence[OrdinalNetwork], side_px: int) -> OpenVinoGraph:
        """Make a graph of networks in evaluation mode, frozen, on the CPU; it may share their weights.

        Raises
        ------
        DeviceError
            If OpenVINO is not there, or cannot take these networks.
        """
        return cls.of_module(_Maps(networks).eval(), (1, side_px, side_px, 3))

    @classmethod
    def of_module(cls, module: torch.nn.Module, shape: tuple[int, ...]) -> OpenVinoGraph:
        """Make a graph of any module that takes pixels, uint8, of one shape; errors as :meth:`of`."""
        openvino = _openvino()
        try:
            return cls(_convert(openvino, module, shape))
        except Exception as error:  # torch.export and OpenVINO raise whatever they like
            raise _refusal(error) from error


class OpenVinoPass:
    """The forward pass of a graph, compiled for this CPU.

    Parameters
    ----------
    threads
        Threads of a forward pass.

    Raises
    ------
    DeviceError
        If OpenVINO cannot compile it, or not in this precision.
    """

    def __init__(self, graph: OpenVinoGraph, precision: Precision, threads: int) -> None:
        openvino = _openvino()
        if precision not in openvino_precisions():
            raise DeviceError(f"OpenVINO does not compute in {precision} on this CPU", "Use --precision fp32")
        try:
            compiled = openvino.Core().compile_model(
                graph.model,
                "CPU",
                {
                    "INFERENCE_PRECISION_HINT": _HINTS[precision],
                    "EXECUTION_MODE_HINT": "ACCURACY" if precision == "fp32" else "PERFORMANCE",
                    "INFERENCE_NUM_THREADS": threads,
                    "NUM_STREAMS": 1,
                    # Several processes would be pinned to the same cores.
                    "ENABLE_CPU_PINNING": False,
                },
            )
        except RuntimeError as error:
            raise _refusal(error) from error
        self._request: Any = compiled.create_infer_request()

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute what the graph gives for pixels.

        Parameters
        ----------
        pixels
            Of the graph's shape, R, G, B: for networks that score, one composite (1, side, side, 3).

        Returns
        -------
        ndarray
            float32, the caller's own. Networks that score give linear maps (members, bits, h, w), no biases.
        """
        self._request.infer({0: pixels}, share_inputs=True)
        return np.array(self._request.get_output_tensor(0).data, dtype=np.float32)


class _Maps(torch.nn.Module):
    """The networks side by side, without the switches of autocast, which an exported graph cannot hold."""

    def __init__(self, networks: Sequence[OrdinalNetwork]) -> None:
        super().__init__()
        self.networks = torch.nn.ModuleList(networks)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        maps = []
        for network in self.networks:
            assert isinstance(network, OrdinalNetwork)
            maps.append(network.head.linear(network.features(pixels).float()))
        return torch.cat(maps)


def _convert(openvino: Any, module: torch.nn.Module, shape: tuple[int, ...]) -> Any:
    pixels = torch.zeros(shape, dtype=torch.uint8)
    with torch.no_grad(), _quiet():
        decoder = import_module("openvino.frontend.pytorch.fx_decoder").TorchFXPythonDecoder
        exported = torch.export.export(module, (pixels,))
        graph = openvino.convert_model(decoder.from_exported_program(exported, dynamic_shapes=False))
    graph.reshape(list(shape))
    return graph


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what OpenVINO's converter logs of operations that a newer PyTorch no longer has.

    It also sets the level of everybody's log, which is put back.
    """

    def from_elsewhere(record: logging.LogRecord) -> bool:
        return "openvino" not in record.pathname

    root = logging.getLogger()
    level = root.level
    root.addFilter(from_elsewhere)
    try:
        yield
    finally:
        root.removeFilter(from_elsewhere)
        root.setLevel(level)


def _refusal(error: Exception) -> DeviceError:
    return DeviceError(f"OpenVINO cannot take this network: {_line(error)}", "Use --engine torch")


def _openvino() -> Any:
    with _importing:
        if "openvino" not in sys.modules:
            # It reports its use to its maker unless a file in the user's home says no; without this package
            # it has nothing to report with.
            sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None keeps it from being imported
        try:
            return import_module("openvino")
        except (ImportError, OSError) as error:
            raise DeviceError(
                f"OpenVINO cannot be imported: {_line(error)}", "Run: python -m pip install openvino"
            ) from error


def _line(error: BaseException) -> str:
    """Return an error's own words in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300].rstrip(".")
