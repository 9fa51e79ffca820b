"""Training one network: the loop, and what it needs before and after.

The loop has no state that is not in a checkpoint or a function of the step: composites, augmentation, dropout
and learning rate follow from the seed and the step. So a run that is killed goes on from its last checkpoint
and ends, on the CPU, with the same weights bit for bit; and the gradient of a step is the same sum over the
same composites however many processes share it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, Protocol

import msgspec
import psutil
import torch
from torch import nn

from herohe_model.ending_signals import heard_at_once
from herohe_model.errors import CancelledError, HeroheError, OptionError
from herohe_model.model.card import Knowledge
from herohe_model.model.checkpoint import save_model
from herohe_model.model.device import device_label
from herohe_model.model.machine import default_threads
from herohe_model.model.new_model import library_versions
from herohe_model.training.curves import draw_curves
from herohe_model.training.options import TrainOptions
from herohe_model.training.processes import Processes
from herohe_model.training.run_folder import (
    RunConfig,
    RunFolder,
    TrainingState,
    optimiser_tensors,
    restore_optimiser,
)
from herohe_model.training.step import (
    Resources,
    TrainingRun,
    TrainingSet,
    average_norm_statistics,
    begin_training,
    build_network,
    forward_backward,
    norm_statistics,
    prepare,
    read_batches,
    settle_norm_statistics,
    validate,
)

_FINAL_LR: Final = 0.01
_PRELOAD_SHARE: Final = 0.7
_GO_ON: Final = "Give the same command again to go on from there"


class TrainListener(Protocol):
    """Who is told how training goes; called in the first process alone."""

    def say(self, message: str) -> None:
        """Tell a sentence."""

    def begin(self, what: str, total: int, unit: str, done: int = 0) -> None:
        """Tell that a stage of `total` units begins, of which `done` are done already."""

    def advance(self, done: int, detail: str = "") -> None:
        """Tell how far the stage is."""


class NullListener:
    """A listener that does not listen."""

    def say(self, message: str) -> None:
        """Do nothing."""

    def begin(self, what: str, total: int, unit: str, done: int = 0) -> None:
        """Do nothing."""

    def advance(self, done: int, detail: str = "") -> None:
        """Do nothing."""


def train_network(
    data: TrainingSet,
    options: TrainOptions,
    folder: Path,
    *,
    slides_sha256: str,
    processes: Processes,
    resources: Resources | None = None,
    weights: Path | None = None,
    name: str = "",
    trained_on: str = "",
    knowledge: Knowledge = "trained",
    cohort: str = "",
    learned: tuple[str, ...] | None = None,
    slides: tuple[str, ...] = (),
    listener: TrainListener | None = None,
    stop: Callable[[], bool] | None = None,
) -> Path:
    """Train a network on some slides, or go on with its training; keep everything in a folder.

    Parameters
    ----------
    data
        At least one slide to train on. Held-out slides are looked at for the curves and decide nothing.
    options
        Checked by :func:`~herohe_model.training.options.check_options`.
    folder
        The run's folder, see :mod:`herohe_model.training.run_folder`.
    slides_sha256
        Digest of slides, truth and regions: a run only goes on with the same ones.
    weights
        The safetensors file that ``options.weights_sha256`` names.
    name, trained_on, knowledge, cohort, learned, slides
        For the model card.
    stop
        Asked before each forward pass; a true answer ends the run after a checkpoint.

    Returns
    -------
    Path
        The model file; when it is there already, nothing is trained.

    Raises
    ------
    CancelledError
        When `stop` said so.
    OptionError
        If the folder holds another run, or the backbone cannot do what the options ask.
    HeroheError
        Whatever slides and weights raise; also when the loss is no finite number.
    """
    run_folder = RunFolder(folder)
    if processes.first:
        run_folder.begin(RunConfig(options=options, slides_sha256=slides_sha256, versions=library_versions()))
    processes.wait()
    if run_folder.model.exists():
        return run_folder.model
    resources = resources or Resources()
    listener = listener if listener is not None and processes.first else NullListener()
    with _torch_settings(processes, resources):
        checkpoint, problems = run_folder.latest_checkpoint()
        for problem in problems:
            listener.say(f"A checkpoint is passed over: {problem}")
        # Weights may come over a slow line, and nobody is asked meanwhile.
        with heard_at_once():
            card, network = build_network(
                options, processes, weights, resumed=checkpoint is not None, name=name
            )
        run = prepare(data, options, network, processes, resources)
        start = 0
        if checkpoint is not None:
            start = checkpoint.state.step
            network.load_state_dict(checkpoint.network)
            restore_optimiser(run.optimiser, checkpoint.optimiser)
        if processes.first:
            run_folder.rewind_log(start)
            run_folder.append_log(_start_record(run, start, data))
        _preload(run, resources, listener)
        listener.begin(f"training {name}".strip(), run.curriculum.steps, "steps", start)

        def keep(step: int) -> None:
            if processes.first:
                state = TrainingState(step=step, options_sha256=options.digest(), slides_sha256=slides_sha256)
                run_folder.save_checkpoint(state, network.state_dict(), optimiser_tensors(run.optimiser))
                draw_curves(run_folder.read_log(), folder)

        _loop(run, run_folder, resources, start, keep, listener, stop or (lambda: False))
        begin_training(run)
        settle_norm_statistics(run, resources)
        if processes.first:
            card = msgspec.structs.replace(
                card,
                trained_on=trained_on,
                knowledge=knowledge,
                cohort=cohort,
                learned=learned,
                slides=slides,
                versions=library_versions(),
            )
            save_model(run_folder.model, card, network.state_dict())
        processes.wait()
    return run_folder.model


@contextmanager
def _torch_settings(processes: Processes, resources: Resources) -> Iterator[None]:
    """Set PyTorch's threads, and put them and its random numbers back afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(resources.threads or max(1, default_threads() // processes.count))
    try:
        with torch.random.fork_rng(devices=[processes.device] if processes.device.type == "cuda" else []):
            yield
    finally:
        torch.set_num_threads(threads)


def _start_record(run: TrainingRun, start: int, data: TrainingSet) -> dict[str, object]:
    return {
        "event": "start",
        "step": start,
        "steps": run.curriculum.steps,
        "device": device_label(run.device),
        "precision": run.precision,
        "processes": run.processes.count,
        "slides": len(data.training),
        "held_out": len(data.held_out),
        "versions": library_versions(),
    }


def _loop(
    run: TrainingRun,
    folder: RunFolder,
    resources: Resources,
    start: int,
    keep: Callable[[int], None],
    listener: TrainListener,
    stop: Callable[[], bool],
) -> None:
    """Take optimiser steps from `start` to the last."""
    options, processes, steps = run.options, run.processes, run.curriculum.steps
    passes = options.batch // (options.micro_batch * processes.count)
    in_epochs = run.curriculum.per_epoch / options.batch
    began, kept = time.monotonic(), start
    begin_training(run)
    with closing(read_batches(run, resources, range(start, steps))) as composites:
        for step in range(start, steps):
            rate = learning_rate(step, steps, options)
            for group in run.optimiser.param_groups:
                group["lr"] = rate
            run.optimiser.zero_grad(set_to_none=True)
            loss = torch.zeros((), device=run.device)
            before = [b.clone() for b in norm_statistics(run.network)]
            stopped = processes.any(stop())
            for number in range(passes):
                # Alone, a process need not finish the step: it will be taken again.
                stopped = stopped or (processes.count == 1 and stop())
                if stopped:
                    break
                loss += forward_backward(run, step, number, passes, composites)
            if stopped:
                for buffer, value in zip(norm_statistics(run.network), before, strict=True):
                    buffer.copy_(value)
                if step > kept:
                    keep(step)
                raise CancelledError(
                    f"Training stopped at step {step} of {steps}, kept in {folder.path}", _GO_ON
                )
            norm = nn.utils.clip_grad_norm_(run.network.parameters(), options.grad_clip)
            whole_loss = float(processes.total(loss))
            if not math.isfinite(whole_loss) or not math.isfinite(float(norm)):
                raise HeroheError(
                    f"The loss is {whole_loss}, the gradient {float(norm)} at step {step} of {folder.path}",
                    "Begin again with a smaller --lr, or with --precision fp32",
                )
            run.optimiser.step()
            average_norm_statistics(run)

            done = step + 1
            epoch = done / in_epochs
            speed = (done - start) * options.batch / (time.monotonic() - began)
            if processes.first:
                folder.append_log(
                    {
                        "event": "step",
                        "step": done,
                        "epoch": round(epoch, 4),
                        "loss": whole_loss,
                        "gradient_norm": float(norm),
                        "lr": rate,
                        "composites_per_s": round(speed, 3),
                    }
                )
                listener.advance(done, f"loss {whole_loss:.4f}, {speed:.2f} composites/s")
            # Every process tells of its own.
            for problem in (*run.reader.damage(), *run.held_out.damage()):
                folder.append_log({"event": "damage", "step": done, "problem": problem})
                listener.say(problem)
            if run.held_out_draws and _is_due(done, steps, in_epochs, options.validate_every):
                found = validate(run, resources)
                if processes.first:
                    folder.append_log(
                        {"event": "validation", "step": done, "epoch": round(epoch, 4), **found}
                    )
            if done % options.checkpoint_every == 0 or done == steps:
                keep(done)
                kept = done


def _preload(run: TrainingRun, resources: Resources, listener: TrainListener) -> None:
    if not resources.preload:
        return
    for reader, count in ((run.reader, run.curriculum.slides), (run.held_out, len(run.held_out_draws))):
        if count:
            needed, free = reader.preload_bytes(), psutil.virtual_memory().available
            if needed > _PRELOAD_SHARE * free:
                raise OptionError(
                    f"The patches of {count} slides take {needed / 2**30:.1f} GiB of {free / 2**30:.1f} free",
                    "Train without --preload: composites are read while others are computed",
                )
            listener.begin("reading patches into memory", count, "slides")
            reader.preload(range(count), workers=resources.workers, progress=listener.advance)


def learning_rate(step: int, steps: int, options: TrainOptions) -> float:
    """Learning rate of a step: up in a line, down along a cosine to a hundredth of the peak."""
    warm = max(1, round(options.warmup * steps))
    if step < warm:
        return options.lr * (step + 1) / warm
    share = (step - warm) / max(1, steps - warm)
    return options.lr * (_FINAL_LR + (1 - _FINAL_LR) * 0.5 * (1 + math.cos(math.pi * share)))


def _is_due(done: int, steps: int, in_epochs: float, every: int) -> bool:
    """Whether a step ends a number of epochs that is due for a look at the held-out slides."""
    if every == 0:
        return False
    return done == steps or done // (every * in_epochs) > (done - 1) // (every * in_epochs)
