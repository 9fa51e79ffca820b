"""Messages between the server and its model workers: a header, then frames as it says.

They share one machine and one installation, so there is no version and no token; the connection itself is
private.
"""

from __future__ import annotations

import msgspec

from bridge.protocol.messages import ArrayHeader
from herohe_model.model.compute import Compute
from herohe_model.model.score import ScorerInfo


class WorkerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings that a worker gets on its standard input.

    Attributes
    ----------
    endpoint
        The server's socket for workers.
    name
        The worker's own name, its ZeroMQ identity.
    model, compute
        As :meth:`herohe_model.engines.scorer.Scorer.load` takes them.
    server_key, public_key, secret_key
        CURVE keys in Z85 where the connection is not private by itself; "" where it is.
    """

    endpoint: str
    name: str
    model: str
    compute: Compute
    server_key: str = ""
    public_key: str = ""
    secret_key: str = ""


class Job(msgspec.Struct, frozen=True):
    """One composite, with the number that its answer carries."""

    job: int
    array: ArrayHeader


class Work(msgspec.Struct, frozen=True, tag="work"):
    """Score these; a frame follows for each."""

    jobs: tuple[Job, ...]


class Drop(msgspec.Struct, frozen=True, tag="drop"):
    """Do not begin these."""

    jobs: tuple[int, ...]


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The model is loaded."""

    info: ScorerInfo


class Note(msgspec.Struct, frozen=True, tag="note"):
    """What takes long while the model is loaded, in words."""

    text: str


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The model cannot be loaded."""

    code: str
    problem: str
    remedy: str


class Scored(msgspec.Struct, frozen=True, tag="scored"):
    """Frames follow, as :func:`bridge.protocol.codec.score_frames` makes them."""

    job: int
    cells: int
    bits: int


class JobFailed(msgspec.Struct, frozen=True, tag="job_failed"):
    """The composite cannot be scored, or was dropped."""

    job: int
    code: str
    problem: str
    remedy: str


class Beat(msgspec.Struct, frozen=True, tag="beat"):
    """Still there."""


ToWorker = Work | Drop
FromWorker = Ready | Note | Failed | Scored | JobFailed | Beat

encode_worker = msgspec.json.Encoder().encode
decode_to_worker = msgspec.json.Decoder(ToWorker).decode
decode_from_worker = msgspec.json.Decoder(FromWorker).decode
