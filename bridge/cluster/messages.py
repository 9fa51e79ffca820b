"""What the driver of a cluster run and the workers say to each other, as MessagePack.

Dask carries it: bytes go in, bytes come out. Dask itself pickles the names of our functions, so the nodes of
a cluster must trust each other.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from bridge.results.schema import SlideResult
from bridge.versions import is_older
from herohe_model.model.compute import Compute
from herohe_model.model.score import Embeds


class Environment(msgspec.Struct, frozen=True):
    """What must be alike on all workers of a run, because results depend on it.

    Attributes
    ----------
    version
        Of herohe-bridge.
    device, precision, engine, threads
        Of the loaded model; see :class:`herohe_model.engines.scorer.Scorer`.
    packages
        Versions of the packages that decide a result, by name.
    embeds
        Of a bag model, what embeds patches.
    """

    version: str
    device: str
    precision: str
    engine: str
    threads: int
    packages: dict[str, str]
    embeds: Embeds | None = None

    def difference(self, other: Environment) -> tuple[str, str, str]:
        """Return the first thing that differs, as its name, this value and the other; "" if none does."""
        for name in ("version", "device", "precision", "engine", "threads"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                return "herohe-bridge" if name == "version" else name, str(mine), str(theirs)
        for name, mine in self.packages.items():
            if other.packages.get(name) != mine:
                return name, mine, other.packages.get(name, "none")
        if self.embeds != other.embeds:
            return "encoder", str(self.embeds), str(other.embeds)
        return "", "", ""


class RunSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker must hold and be to take part in a run.

    Attributes
    ----------
    run
        Identifier of the run, for its progress.
    model, model_sha256
        The model's file on the driver's machine, which need not be there on a worker's, and its SHA-256.
    compute, threads
        As :meth:`herohe_model.engines.scorer.Scorer.load` takes them.
    facts
        What the other workers are; None for the first, which decides what is left open.
    """

    run: str
    version: str
    model: str
    model_sha256: str
    compute: Compute
    threads: int
    facts: Environment | None = None


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The worker holds the model. ``cpus`` is how many logical CPUs it may use."""

    host: str
    facts: Environment
    cpus: int


class ModelMissing(msgspec.Struct, frozen=True, tag="needs_model"):
    """The worker of this address cannot read the model's file, and wants it sent."""

    worker: str
    host: str


class Rejected(msgspec.Struct, frozen=True, tag="misfit"):
    """The worker of this address cannot take part in the run."""

    worker: str
    host: str
    problem: str
    remedy: str


class Scored(msgspec.Struct, frozen=True, tag="scored"):
    """A slide's result, whatever its outcome, from the worker of this address."""

    worker: str
    result: SlideResult


class Abandoned(msgspec.Struct, frozen=True, tag="abandoned"):
    """The slide was given up because nobody seemed to want it any more."""


class Step(msgspec.Struct, frozen=True):
    """How far a slide is; ``stage``, ``done`` and ``total`` as in :class:`bridge.scoring.slide.Progress`."""

    run: str
    entry: str
    stage: Literal["foreground", "composites", "patches"]
    done: int
    total: int


Answer = Ready | ModelMissing | Rejected | Scored | Abandoned

TOPIC: Final = "herohe-bridge"
"""Dask's topic that workers report their steps to."""

encode: Final = msgspec.msgpack.Encoder().encode
decode_terms: Final = msgspec.msgpack.Decoder(RunSpec).decode
decode_answer: Final = msgspec.msgpack.Decoder(Answer).decode
decode_step: Final = msgspec.msgpack.Decoder(Step).decode


def unlike(name: str, here: str, there: str) -> tuple[str, str]:
    """Return problem and remedy for a worker that differs from the others; see :class:`Environment`."""
    if name in ("device", "precision", "engine"):
        remedy = f"Give --{name}, or start workers on machines that are alike"
    elif is_older(here, there):
        remedy = f"Update {name} there, and restart the worker"
    else:
        remedy = f"Make {name} the same on all workers, and restart them"
    return f"its {name} is {here}, that of the other workers {there}", remedy
