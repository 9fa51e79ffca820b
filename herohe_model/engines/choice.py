"""Which engine computes a model on this machine's CPU, and in which precision.

Engines differ several-fold in speed, and which is fastest depends on the network and the machine. So each is
tried once on composites of the model's own size, must agree there with PyTorch in float32, and the fastest
is remembered in a file: every process on the machine then takes the same one, and the same composite gets
the same bytes. PyTorch's own compiler is not among the engines: it needs a C++ compiler on the user's
machine, took ten times as long to compile as OpenVINO to load, and was slower (measured on resnet50 and
efficientnet_b0).
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import Final

import torch
from torch.utils.flop_counter import FlopCounterMode

from herohe_model.engines.cache import MeasurementCache
from herohe_model.engines.openvino_engine import openvino_version
from herohe_model.engines.trials import Measured, Trial, Trials, in_thread
from herohe_model.errors import DeviceError, HeroheError, OptionError
from herohe_model.model.card import ModelCard
from herohe_model.model.compute import Compute, EngineName, Precision
from herohe_model.model.device import choose_precision, find_devices
from herohe_model.model.machine import machine_memory
from herohe_model.model.network import OrdinalNetwork, create_backbone, plan_backbone

WORTH_MEASURING: Final = 5_000_000_000
"""Floating-point operations of a composite, below which PyTorch's float32 is taken as it is.

That is about a twentieth of a second on two cores; loading another engine takes seconds.
"""


_NOTICE_S: Final = 2.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """An engine and a precision.

    Attributes
    ----------
    trials
        What was measured, the chosen one first; empty where nothing was to choose.
    """

    engine: EngineName
    precision: Precision
    trials: tuple[Trial, ...] = ()


def choose_engine(
    card: ModelCard,
    networks: Sequence[OrdinalNetwork],
    device: torch.device,
    asked: Compute,
    *,
    threads: int,
    model_sha256: str,
    memory: MeasurementCache,
    worth_measuring: int = WORTH_MEASURING,
    machine_bytes: int | None = None,
) -> Choice:
    """Choose by what was asked for, what is remembered, or a measurement.

    Logs that measuring takes more than two seconds, or that nothing can be remembered.

    Parameters
    ----------
    networks
        In evaluation mode, on the CPU.
    model_sha256
        Names the model in the memory; "" for one that was never a file.
    machine_bytes
        Memory of this machine; None to ask it.

    Raises
    ------
    OptionError
        If the engine cannot use the device.
    DeviceError
        If the engine that was asked for is not there or cannot take the network.
    """
    precision = choose_precision(asked.precision, device)
    exact: Precision = "bf16" if asked.precision == "bf16" else "fp32"
    if device.type != "cpu":
        if asked.engine == "openvino":
            raise OptionError(
                f"OpenVINO computes on the CPU, not on {device}", "Use --device cpu, or leave out --engine"
            )
        return Choice("torch", precision)
    if "auto" not in (asked.engine, asked.precision):
        return Choice("openvino" if asked.engine == "openvino" else "torch", precision)
    trials = Trials(card, networks, asked, threads, machine_bytes or machine_memory())
    if asked.engine == "torch" and not trials.others:
        return Choice("torch", "fp32")
    if len(networks) * operations(card.backbone, card.side_px) < worth_measuring:
        return Choice("openvino" if asked.engine == "openvino" else "torch", exact)
    facts = {
        "model": model_sha256 or _digest(networks),
        "backbone": card.backbone,
        "side_px": card.side_px,
        "cpu": find_devices()[-1].model,
        "threads": threads,
        "engine": asked.engine,
        "precision": asked.precision,
        "versions": engine_versions(),
    }
    if trials.small:
        facts["memory"] = "small"

    def measure() -> Measured:
        say = threading.Timer(
            _NOTICE_S,
            _log.info,
            ["Measuring once how %s scores fastest on this CPU; the answer is remembered", card.name],
        )
        say.daemon = True
        say.start()
        try:
            return Measured(in_thread(threads, trials.fastest_first))
        finally:
            say.cancel()
            say.join()

    measured = memory.recall(facts, Measured, measure)
    if measured is None:
        # Two processes may measure differently, but they check alike.
        measured = Measured(in_thread(threads, trials.first_sound))
    chosen = measured.trials[0]
    if not asked.leaves_open(chosen.engine, chosen.precision):
        if asked.engine != "openvino":
            # Named by the user, so not for us to refuse.
            return Choice(chosen.engine, precision, measured.trials)
        why = "; ".join(t.refused for t in measured.trials if t.engine == "openvino")
        raise DeviceError(f"OpenVINO cannot be used for {card.name}: {why}", "Leave out --engine")
    return Choice(chosen.engine, chosen.precision, measured.trials)


def engine_label(engine: EngineName) -> str:
    """Return the engine's name and version, as they stand in results."""
    if engine == "openvino":
        return f"openvino {openvino_version()}"
    return f"torch {version('torch')}"


def engine_versions() -> dict[str, str]:
    """Versions of what the choice depends on; of OpenVINO ``none`` where it cannot be used."""
    try:
        openvino = openvino_version()
    except HeroheError:
        openvino = "none"
    return {"openvino": openvino, "timm": version("timm"), "torch": version("torch")}


@lru_cache(maxsize=64)
def operations(backbone: str, side_px: int) -> int:
    """Count the floating-point operations of one composite, without doing them."""
    arguments = dict(plan_backbone(backbone, side_px).arguments)
    with torch.device("meta"), torch.inference_mode(), FlopCounterMode(display=False) as counter:
        create_backbone(backbone, arguments).eval()(torch.zeros(1, 3, side_px, side_px))
    return int(counter.get_total_flops())


def _digest(networks: Sequence[OrdinalNetwork]) -> str:
    digest = hashlib.sha256()
    for network in networks:
        state: Mapping[str, torch.Tensor] = network.state_dict()
        for key in sorted(state):
            digest.update(key.encode())
            digest.update(state[key].detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
