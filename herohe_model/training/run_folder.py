"""The folder of one training run: options, log and checkpoints; what a run goes on from.

::

    config.json        the options
    run.lock           held by the process that trains here
    log.jsonl          one JSON object a line: steps, validations, starts
    checkpoints/       the last two, each one safetensors file with its JSON inside
    curves.html        the log, drawn
    model.safetensors  the result, when there is one

Nothing is pickled. Files are written beside their place and then moved there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import safetensors.torch
import torch

from herohe_model.errors import ModelFileError, OptionError
from herohe_model.files import write_atomically
from herohe_model.model.checkpoint import load_tensors
from herohe_model.training.options import TrainOptions, differing

MODEL_NAME: Final = "model.safetensors"
LOG_NAME: Final = "log.jsonl"
CONFIG_NAME: Final = "config.json"
CURVES_NAME: Final = "curves.html"
_KEPT: Final = 2
_STATE_KEY: Final = "herohe_training_state"

_S = TypeVar("_S", bound=msgspec.Struct)


class RunConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is: its options and what it is trained on.

    Attributes
    ----------
    slides_sha256
        Digest of the slides, their truth and their regions.
    """

    options: TrainOptions
    slides_sha256: str
    versions: dict[str, str]


class TrainingState(msgspec.Struct, frozen=True, kw_only=True):
    """What goes on from a checkpoint, beside the tensors.

    The learning rate, every random number and the position in the epoch follow from `step` and the options.
    """

    step: int
    options_sha256: str
    slides_sha256: str


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory: tensors of the network and of the optimiser, by name."""

    state: TrainingState
    network: dict[str, torch.Tensor]
    optimiser: dict[int, dict[str, torch.Tensor]]


class RunFolder:
    """A run's folder on disk.

    Parameters
    ----------
    path
        Made if it is not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._checkpoints = path / "checkpoints"

    @property
    def model(self) -> Path:
        """The result."""
        return self.path / MODEL_NAME

    @property
    def log(self) -> Path:
        """The log."""
        return self.path / LOG_NAME

    def begin(self, config: RunConfig) -> None:
        """Write the options, or find that they are those of the run that is to go on.

        A run that kept nothing, neither a checkpoint nor a model, binds nobody: it may have failed for its
        options.

        Raises
        ------
        OptionError
            If the folder holds a run with other options, other slides or another truth.
        """
        file = self.path / CONFIG_NAME
        if not file.exists() or not (self.model.exists() or self._checkpoint_files()):
            write_atomically(file, msgspec.json.format(msgspec.json.encode(config), indent=2))
            return
        found = read_json(file, RunConfig)
        changed = differing(found.options, config.options)
        if found.slides_sha256 != config.slides_sha256:
            changed.append("the slides, their truth or their regions are others")
        if changed:
            raise OptionError(
                f"{self.path} holds a run that was begun differently: {'; '.join(changed)}",
                "Give the options of that run to go on with it, or another --output",
            )

    def save_checkpoint(
        self,
        state: TrainingState,
        network: Mapping[str, torch.Tensor],
        optimiser: Mapping[int, Mapping[str, torch.Tensor]],
    ) -> None:
        """Keep a checkpoint, and forget all but the last two."""
        tensors = {f"network.{key}": tensor for key, tensor in network.items()}
        for index, numbers in optimiser.items():
            tensors |= {f"optimiser.{index}.{key}": tensor for key, tensor in numbers.items()}
        # Several tensors may share memory in the network; on disk each is its own.
        whole = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}
        data = safetensors.torch.save(whole, {_STATE_KEY: msgspec.json.encode(state).decode()})
        write_atomically(self._checkpoints / f"step-{state.step:08d}.safetensors", data)
        for old in self._checkpoint_files()[:-_KEPT]:
            old.unlink(missing_ok=True)

    def latest_checkpoint(self) -> tuple[Checkpoint | None, list[str]]:
        """Read the newest checkpoint that is whole.

        Returns
        -------
        checkpoint, problems
            None when there is none; what is wrong with newer ones that were passed over.
        """
        problems: list[str] = []
        for file in reversed(self._checkpoint_files()):
            try:
                return _read_checkpoint(file), problems
            except ModelFileError as error:
                problems.append(str(error))
        return None, problems

    def _checkpoint_files(self) -> list[Path]:
        return sorted(self._checkpoints.glob("step-*.safetensors"))

    def append_log(self, record: Mapping[str, Any]) -> None:
        """Add a line to the log."""
        # A link that somebody put into a shared folder is not followed, where the system can refuse it.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        with open(os.open(self.log, flags, 0o666), "ab") as file:
            file.write(msgspec.json.encode(record) + b"\n")

    def read_log(self) -> list[dict[str, Any]]:
        """Return the lines of the log; one that was cut short is left out."""
        if not self.log.exists():
            return []
        records = []
        for line in self.log.read_bytes().splitlines():
            try:
                records.append(msgspec.json.decode(line, type=dict[str, Any]))
            except msgspec.DecodeError:
                continue
        return records

    def rewind_log(self, step: int) -> None:
        """Take back the lines after a step: they will be written again."""
        records = [r for r in self.read_log() if r.get("step", 0) <= step]
        if self.log.exists():
            write_atomically(self.log, b"".join(msgspec.json.encode(r) + b"\n" for r in records))


def read_json(path: Path, kind: type[_S]) -> _S:
    """Read a JSON file of ours.

    Raises
    ------
    ModelFileError
        If it is missing or damaged.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError) as error:
        raise ModelFileError(
            f"{path} cannot be read: {error}", "Begin again with another --output"
        ) from error


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[int, dict[str, torch.Tensor]]:
    """Return an optimiser's tensors by the number of the parameter."""
    state: dict[int, dict[str, torch.Tensor]] = optimiser.state_dict()["state"]
    return state


def restore_optimiser(
    optimiser: torch.optim.Optimizer, tensors: Mapping[int, Mapping[str, torch.Tensor]]
) -> None:
    """Put an optimiser's tensors back."""
    whole = optimiser.state_dict()
    whole["state"] = {index: dict(numbers) for index, numbers in tensors.items()}
    optimiser.load_state_dict(whole)


def _read_checkpoint(file: Path) -> Checkpoint:
    metadata, tensors, _ = load_tensors(file)
    try:
        state = msgspec.json.decode(metadata[_STATE_KEY], type=TrainingState)
    except (KeyError, msgspec.DecodeError) as error:
        raise ModelFileError(f"{file} is no checkpoint of a training run") from error
    network, optimiser = {}, dict[int, dict[str, torch.Tensor]]()
    for key, tensor in tensors.items():
        kind, _, rest = key.partition(".")
        if kind == "network":
            network[rest] = tensor
        else:
            index, _, name = rest.partition(".")
            optimiser.setdefault(int(index), {})[name] = tensor
    return Checkpoint(state, network, optimiser)


def log_series(records: Sequence[Mapping[str, Any]], event: str, key: str) -> tuple[list[int], list[float]]:
    """Return steps and values of one number in the log."""
    found = [(r["step"], r[key]) for r in records if r.get("event") == event and r.get(key) is not None]
    return [step for step, _ in found], [float(value) for _, value in found]
