"""Engines tried on composites of a model's own size, beside PyTorch in float32."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Final, TypeVar

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from herohe_model.engines.openvino_engine import OpenVinoGraph, OpenVinoPass
from herohe_model.engines.torch_engine import set_threads_of_this_thread, torch_pass
from herohe_model.errors import DeviceError, HeroheError
from herohe_model.grades import bit_probabilities, grade_of, ihc_probabilities
from herohe_model.model.card import ModelCard
from herohe_model.model.compute import Compute, EngineName, Precision
from herohe_model.model.device import choose_precision
from herohe_model.model.network import OrdinalNetwork
from herohe_model.model.score import CompositeScore, mean_score, share_out
from herohe_model.synthetic.phantom import draw_phantom

SMALL_MACHINE: Final = 3 * 2**30
"""Bytes of memory below which OpenVINO is not tried: a process with it takes 1.7 to 1.9 GiB."""

APART: Final = 0.01
"""How far a probability may be from PyTorch's in float32."""

_LOGIT_APART: Final = 0.04
"""A logit this far off moves a probability by up to 0.01."""

_ALIKE: Final = 0.9
"""An engine that needs this share of another's time is not worth less exact numbers."""

_LEAST_RUNS: Final = 2

_MOST_RUNS: Final = 5

_LONG_ENOUGH_S: Final = 1.0

Maps = NDArray[np.float32]

Pass = Callable[[NDArray[np.uint8]], Maps]

_T = TypeVar("_T")


class Trial(msgspec.Struct, frozen=True):
    """How an engine did; ``refused`` says why it may not be used, "" if it may.

    ``seconds`` is the best time of a composite, ``apart`` the largest difference of a probability.
    """

    engine: EngineName
    precision: Precision
    seconds: float = 0.0
    apart: float = 0.0
    refused: str = ""


class Measured(msgspec.Struct, frozen=True):
    """What was measured on a machine, as it is remembered; the first of ``trials`` was chosen."""

    trials: tuple[Trial, ...]


def check_composites(side_px: int) -> list[NDArray[np.uint8]]:
    """Draw the composites that engines are compared on: (side, side, 3), uint8, always the same."""
    return [draw_phantom(grade, seed=5, side=side_px, tumours=1).picture for grade in ("1+", "3+")]


class Trials:
    """Engines at work on the same composites, beside PyTorch in float32."""

    def __init__(
        self, card: ModelCard, networks: Sequence[OrdinalNetwork], asked: Compute, threads: int, room: int
    ) -> None:
        self._card = card
        self._networks = networks
        self._asked = asked
        self._threads = threads
        self.small = asked.engine == "auto" and room < SMALL_MACHINE
        self._biases = [network.head.biases().detach().numpy() for network in networks]

    @cached_property
    def others(self) -> tuple[tuple[EngineName, Precision], ...]:
        """What may be chosen beside PyTorch in float32, what is fastest as a rule first."""
        found: list[tuple[EngineName, Precision]] = []
        if not self.small:
            found += [("openvino", "bf16"), ("openvino", "fp32")]
        bf16 = self._asked.precision == "bf16" or choose_precision("auto", torch.device("cpu")) == "bf16"
        if bf16:
            found.append(("torch", "bf16"))
        return tuple(pair for pair in found if self._asked.leaves_open(*pair))

    def fastest_first(self) -> tuple[Trial, ...]:
        """Try everything that may be chosen; the one to take comes first."""
        if not self.others:
            return (Trial("torch", "fp32"),)
        composites, reference, seconds = self._reference()
        trials = [Trial("torch", "fp32", seconds)]
        for pair in self.others:
            best = min(trial.seconds for trial in trials if not trial.refused)
            trials.append(self._try(*pair, composites, reference, give_up_s=2 * best))
        usable = [t for t in trials if self._usable(t)] or trials[:1]
        fastest = min(trial.seconds for trial in usable)
        alike = [trial for trial in usable if trial.seconds <= fastest / _ALIKE]
        chosen = next((trial for trial in alike if trial.precision == "fp32"), alike[0])
        return (chosen, *(trial for trial in trials if trial is not chosen))

    def first_sound(self) -> tuple[Trial, ...]:
        """Try until one agrees with the reference; it comes first."""
        composites, reference, seconds = self._reference()
        refused: list[Trial] = []
        for pair in self.others:
            trial = self._try(*pair, composites, reference)
            if self._usable(trial):
                return (trial, *refused)
            refused.append(trial)
        return (Trial("torch", "fp32", seconds), *refused)

    def _usable(self, trial: Trial) -> bool:
        return not trial.refused and self._asked.leaves_open(trial.engine, trial.precision)

    def _reference(self) -> tuple[list[NDArray[np.uint8]], list[CompositeScore], float]:
        composites = [picture[None] for picture in check_composites(self._card.side_px)]
        try:
            maps, seconds = _run(self._pass("torch", "fp32"), composites)
        except (RuntimeError, MemoryError) as error:
            raise DeviceError(
                f"{self._card.name} could not be tried on this CPU: {str(error).splitlines()[0]}",
                "Free memory, or name --engine and --precision: then nothing is tried",
            ) from error
        return composites, [self._score(m) for m in maps], seconds

    def _try(
        self,
        engine: EngineName,
        precision: Precision,
        composites: list[NDArray[np.uint8]],
        reference: list[CompositeScore],
        give_up_s: float = float("inf"),
    ) -> Trial:
        try:
            maps, seconds = _run(self._pass(engine, precision), composites, give_up_s)
        except HeroheError as error:
            return Trial(engine, precision, refused=error.problem)
        except (RuntimeError, MemoryError) as error:
            return Trial(engine, precision, refused=" ".join(str(error).split())[:300])
        if len(maps) < len(composites):
            return Trial(engine, precision, seconds, refused=f"It took {seconds:.2f} s for a composite")
        apart, why = _compare(self._card, [self._score(m) for m in maps], reference)
        return Trial(engine, precision, seconds, apart, why)

    @cached_property
    def _graph(self) -> OpenVinoGraph:
        return OpenVinoGraph.of(self._networks, self._card.side_px)

    def _pass(self, engine: EngineName, precision: Precision) -> Pass:
        if engine == "openvino":
            return OpenVinoPass(self._graph, precision, self._threads)
        forward = torch_pass(self._networks, torch.device("cpu"), precision)

        def run(pixels: NDArray[np.uint8]) -> Maps:
            with torch.inference_mode():
                return forward(torch.from_numpy(pixels)).numpy()

        return run

    def _score(self, maps: Maps) -> CompositeScore:
        members = zip(maps, self._biases, strict=True)
        return mean_score([share_out(linear, biases, self._card.grid) for linear, biases in members])


def _run(
    run: Pass, composites: list[NDArray[np.uint8]], give_up_s: float = float("inf")
) -> tuple[list[Maps], float]:
    """Run a pass on every composite, and again while that is quick; return maps and the least time.

    Stops after the first composite when that took longer than `give_up_s`.
    """
    maps: list[Maps] = []
    times: list[float] = []
    while len(times) < max(_LEAST_RUNS, len(composites)) or (
        len(times) < _MOST_RUNS and sum(times) < _LONG_ENOUGH_S
    ):
        began = time.perf_counter()
        found = run(composites[len(times) % len(composites)])
        times.append(time.perf_counter() - began)
        if len(maps) < len(composites):
            maps.append(found)
        if times[0] > give_up_s:
            break
    return maps, min(times)


def _compare(
    card: ModelCard, scores: Sequence[CompositeScore], reference: Sequence[CompositeScore]
) -> tuple[float, str]:
    """Return the largest difference of a probability, and what is wrong, "" if nothing is."""
    apart = 0.0
    for score, exact in zip(scores, reference, strict=True):
        if not np.isfinite(score.contributions).all():
            return 1.0, "It gave no finite numbers"
        q, q_exact = (bit_probabilities(s.logits, temperature=card.logit_unit) for s in (score, exact))
        apart = max(apart, float(np.abs(q - q_exact).max()))
        if apart > APART:
            return apart, f"A probability was {apart:.3f} from that of PyTorch in float32"
        grade, grade_exact = (grade_of(ihc_probabilities(each, card.steps)) for each in (q, q_exact))
        if grade != grade_exact:
            return apart, f"A composite of grade {grade_exact} became {grade}"
        shares = np.abs(score.contributions - exact.contributions).max() / card.logit_unit
        # Of a saturated logit, more may be off without moving a probability.
        limit = max(_LOGIT_APART, 0.02 * np.abs(exact.contributions).max() / card.logit_unit)
        if shares > limit:
            return apart, f"A patch's contribution was {shares:.3f} from that of PyTorch in float32"
    return apart, ""


def in_thread(threads: int, function: Callable[[], _T]) -> _T:
    """Call in a thread of its own, which computes with so many threads as the scorer's will."""
    with ThreadPoolExecutor(1, initializer=set_threads_of_this_thread, initargs=(threads,)) as pool:
        return pool.submit(function).result()
