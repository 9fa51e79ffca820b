"""Training that is killed, and training that several processes share."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import torch
import torch.distributed.run
from helpers.small_training import tiny_options

from herohe_model.model.checkpoint import load_model
from herohe_model.training.options import TrainOptions
from herohe_model.training.run_folder import RunFolder

_TESTS = Path(__file__).resolve().parents[2]
# Two passes a step and process, so that all but the last keep their gradients to themselves.
_OPTIONS = tiny_options(
    epochs=12, micro_batch=1, checkpoint_gradients=True, validate_every=4, checkpoint_every=2
)


def command(folder: Path, output: Path, options: TrainOptions, *, processes: int = 1) -> list[str]:
    torchrun = [] if processes == 1 else ["-m", "torch.distributed.run", "--standalone"]
    torchrun += [] if processes == 1 else ["--nproc-per-node", str(processes)]
    script = [str(_TESTS / "helpers" / "train_process.py"), str(folder), str(output)]
    return [sys.executable, *torchrun, *script, msgspec.json.encode(options).decode()]


def start(arguments: list[str]) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(_TESTS), os.environ.get("PYTHONPATH")))),
        "PYTHONWARNINGS": "error::FutureWarning",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        arguments,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def run(arguments: list[str]) -> None:
    with start(arguments) as process:
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


def losses(folder: Path, event: str = "step") -> list[float]:
    return [r["loss"] for r in RunFolder(folder).read_log() if r["event"] == event]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run by one process that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    run(command(folder / "slides", folder / "run", _OPTIONS))
    return folder / "run"


def test_a_run_killed_at_a_random_step_ends_with_the_same_weights(whole: Path, tmp_path: Path) -> None:
    last = random.randrange(1, 10)
    with start([*command(tmp_path / "slides", tmp_path / "run", _OPTIONS), str(last + 2)]) as process:
        assert process.stdout is not None
        while int(process.stdout.readline()) < last:
            pass
        # Somewhere in the two steps that follow.
        process.kill()
    assert not (tmp_path / "run" / "model.safetensors").exists()
    run(command(tmp_path / "slides", tmp_path / "run", _OPTIONS))
    expected, found = (load_model(folder / "model.safetensors")[1] for folder in (whole, tmp_path / "run"))
    assert all(torch.equal(expected[key], found[key]) for key in expected), f"killed after step {last}"
    assert losses(tmp_path / "run") == losses(whole)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed")
def test_two_processes_have_the_losses_of_one_with_the_same_batch(whole: Path, tmp_path: Path) -> None:
    run(command(tmp_path / "slides", tmp_path / "run", _OPTIONS, processes=2))
    assert losses(tmp_path / "run") == pytest.approx(losses(whole), abs=1e-4)
    assert len(losses(whole)) == 12
    starts = [r["processes"] for r in RunFolder(tmp_path / "run").read_log() if r["event"] == "start"]
    assert starts == [2]
