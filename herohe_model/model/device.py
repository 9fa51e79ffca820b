"""Which device scores, and in which precision."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass

import psutil
import torch

from herohe_model.errors import DeviceError, OptionError
from herohe_model.model.compute import PRECISIONS, Precision


@dataclass(frozen=True)
class Device:
    """A device of this machine.

    Attributes
    ----------
    name
        As ``--device`` takes it.
    model
        What the maker calls it.
    memory_bytes
        All of its memory.
    """

    name: str
    model: str
    memory_bytes: int


def describe_devices() -> list[str]:
    """Describe each device in a line, such as ``cuda:0 NVIDIA H200, 139.8 GiB``; ``auto``'s comes first."""
    return [f"{d.name} {d.model}, {d.memory_bytes / 2**30:.1f} GiB" for d in find_devices()]


def find_devices() -> tuple[Device, ...]:
    """Find every device that PyTorch can use here; the one that ``auto`` takes comes first."""
    memory = psutil.virtual_memory().total
    devices = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            devices.append(Device(f"cuda:{index}", properties.name, properties.total_memory))
    if torch.backends.mps.is_available():
        devices.append(Device("mps", f"Apple {platform.machine()}", memory))
    cpu = str(_cpu_capabilities().get("cpu_name", "") or platform.processor() or platform.machine())
    devices.append(Device("cpu", cpu, memory))
    return tuple(devices)


def choose_device(wanted: str = "auto") -> torch.device:
    """Return the device that is meant by ``auto``, ``cpu``, ``cuda``, ``cuda:n`` or ``mps``.

    Raises
    ------
    DeviceError
        If it is not there; the message names those that are.
    OptionError
        If that is no name of a device.
    """
    there = [device.name for device in find_devices()]
    if wanted == "auto":
        return torch.device(there[0])
    if not re.fullmatch(r"cpu|mps|cuda(:[0-9]{1,3})?", wanted):
        raise OptionError(f"{wanted!r} is no device", "Use auto, cpu, cuda, cuda:0, cuda:1, ... or mps")
    name = "cuda:0" if wanted == "cuda" else wanted
    if name not in there:
        no_cuda = name.startswith("cuda") and torch.version.cuda is None and torch.version.hip is None
        why = " (this PyTorch was built without CUDA)" if no_cuda else ""
        raise DeviceError(f"The device {wanted} is not there{why}", f"There is {', '.join(there)}")
    return torch.device(name)


def device_label(device: torch.device) -> str:
    """Return the device's name as it stands in results: ``cpu``, ``cuda:0 NVIDIA H200``."""
    if device.type != "cuda":
        return device.type
    return f"{device} {torch.cuda.get_device_name(device)}"


def choose_precision(wanted: str, device: torch.device) -> Precision:
    """Return ``fp32`` or ``bf16``; ``auto`` takes bf16 where the hardware computes in it.

    Raises
    ------
    OptionError
        If that is no name of a precision.
    """
    if wanted == "fp32":
        return "fp32"
    if wanted == "bf16":
        return "bf16"
    if wanted != "auto":
        raise OptionError(f"{wanted!r} is no precision", f"Use {', '.join(PRECISIONS)}")
    if device.type == "cuda":
        # Ampere and later; earlier ones emulate it slowly.
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        # Without these instructions bf16 is emulated, and slower than fp32.
        found = _cpu_capabilities()
        fast = any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
    else:
        fast = False
    return "bf16" if fast else "fp32"


def _cpu_capabilities() -> dict[str, object]:
    # PyTorch 2.10 cannot tell; without an answer fp32 is taken, which is right anywhere.
    ask = getattr(torch.cpu, "get_capabilities", dict)
    return dict(ask())
