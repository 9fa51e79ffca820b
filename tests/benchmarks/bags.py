"""What heads of bag models learn, and how long they take: on bags drawn as slides are, of known rules.

    python tests/benchmarks/bags.py time                  a fold of 300 slides x 2,000 patches x 1,024
    python tests/benchmarks/bags.py rates                 held-out AUC by pooling and learning rate
    python tests/benchmarks/bags.py nests [--shuffled]    mean against attention, paired, on held-out slides

Nothing is read from disk: files of features are not what is measured here.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from herohe_model.bag.card import new_bag_card
from herohe_model.dataset.cases import Case, target_arrays
from herohe_model.evaluation.differences import auc_difference
from herohe_model.evaluation.intervals import auc_interval
from herohe_model.evaluation.metrics import roc_auc
from herohe_model.features.schema import FeatureFacts
from herohe_model.grades import Target
from herohe_model.model.bag_model import BagModel, split_members
from herohe_model.model.card import ModelCard
from herohe_model.training.bag_loop import BagOptions, steps_of, train_bag

TISSUES = 6
LATENT = 32
ROWS = (("0", None), ("1+", None), ("2+", "negative"), ("2+", "positive"), ("3+", None))
SHARES = (0.3, 0.25, 0.15, 0.12, 0.18)
"""Of the five levels, about as in HEROHE."""


class Cohort:
    """Slides of six tissues, drawn in 32 hidden directions that an encoder turns into `dimension` numbers.

    A slide has tissues in its own proportions (Dirichlet), a stain and a laboratory of its own that shift all
    its patches, and 10 to 20% of its patches are nests of one tissue. There a few directions say the level,
    and patches of a nest differ among themselves by more than levels do. The same directions vary outside of
    nests, slide by slide: a background that tells nothing, and that the mean of a slide is full of.
    """

    def __init__(self, seed: int, dimension: int) -> None:
        rng = np.random.default_rng(seed)
        self.centres = rng.normal(size=(TISSUES, LATENT)) * 1.2
        self.level = np.linalg.qr(rng.normal(size=(LATENT, 2)))[0].T
        self.encoder = rng.normal(size=(LATENT, dimension)) / np.sqrt(LATENT)
        self.laboratories = rng.normal(size=(8, LATENT)) * 0.4

    def slide(self, level: int, patches: int, rng: np.random.Generator) -> NDArray[np.float16]:
        """Draw a slide's features, (patches, dimension)."""
        share = rng.uniform(0.1, 0.2)
        tissue = rng.choice(TISSUES - 1, size=patches, p=rng.dirichlet(np.full(TISSUES - 1, 1.0)))
        nest = rng.random(patches) < share
        tissue[nest] = TISSUES - 1
        hidden = self.centres[tissue] + rng.normal(size=(patches, LATENT))
        hidden += self.laboratories[rng.integers(8)] + rng.normal(size=LATENT) * 0.3
        background = rng.normal(size=2) * 1.5
        says = (level - 2) * 0.35 + rng.normal() * 0.35
        hidden[~nest] += background @ self.level
        hidden[nest] += says * self.level[0] + rng.normal(size=(int(nest.sum()), 1)) * self.level[0]
        noise = rng.normal(size=(patches, self.encoder.shape[1])).astype(np.float32) * 0.5
        return (hidden.astype(np.float32) @ self.encoder.astype(np.float32) + noise).astype(np.float16)

    def draw(self, count: int, patches: int, seed: int) -> tuple[list[NDArray[np.float16]], list[Case]]:
        """Draw slides of all levels, and their cases."""
        rng = np.random.default_rng(seed)
        levels = rng.choice(len(ROWS), size=count, p=SHARES)
        cases = [
            Case("train", f"case{seed}-{i}", ihc=ROWS[k][0], ish=ROWS[k][1]) for i, k in enumerate(levels)
        ]
        return [self.slide(int(k), patches, rng) for k in levels], cases


def new_card(options: BagOptions, dimension: int) -> ModelCard:
    """Make a card for drawn features."""
    facts = FeatureFacts(
        path=Path("drawn.h5"), name="drawn", layout="trident", encoder="drawn", count=1, dimension=dimension,
        patch_px=256, mpp=0.5,
    )  # fmt: skip
    target = Target(options.target)
    return new_bag_card(
        "benchmark",
        facts,
        pooling=options.pooling,
        head=options.head,
        target=options.target,
        positive_step=target.default_positive_step,
        width=options.width,
    )


def learn(bags: list[NDArray[np.float16]], cases: list[Case], options: BagOptions) -> tuple[BagModel, float]:
    """Train a head; return it and the seconds that it took."""
    bits, known = target_arrays(cases, Target(options.target))
    begin = time.perf_counter()
    card, state = train_bag(
        new_card(options, bags[0].shape[1]), bags, bits, known, options,
        progress=lambda done: None, stop=lambda: False,
    )  # fmt: skip
    seconds = time.perf_counter() - begin
    weights = {key: tensor.numpy() for key, tensor in state.items()}
    return BagModel(card, split_members(card, weights, "benchmark"), ""), seconds


def scores(model: BagModel, bags: list[NDArray[np.float16]]) -> NDArray[np.float64]:
    """Return the logit of HER2-positive of each slide, all its patches counting."""
    bit = model.card.steps.index(model.card.positive_step)
    return np.array([float(model.score(bag.astype(np.float32)).logits[0, bit]) for bag in bags])


def said(truth: NDArray[np.bool_], z: NDArray[np.float64]) -> str:
    """Return the AUC with its interval."""
    low, high = auc_interval(truth, z)
    return f"AUC {float(roc_auc(truth, z)):.3f} (95% {low:.3f} to {high:.3f})"


def rates(arguments: argparse.Namespace) -> None:
    """Print the held-out AUC of each pooling at several learning rates, on the same slides."""
    cohort = Cohort(arguments.seed, arguments.dimension)
    bags, cases = cohort.draw(arguments.slides, arguments.patches, arguments.seed + 1)
    held_out, of = cohort.draw(arguments.held_out, arguments.patches, arguments.seed + 2)
    truth = np.array([bool(case.positive) for case in of])
    for lr in arguments.lr:
        for pooling in ("mean", "attention"):
            options = BagOptions(pooling=pooling, lr=lr, seed=arguments.seed, patches=arguments.sees)
            model, seconds = learn(bags, cases, options)
            seen = np.array([bool(case.positive) for case in cases])
            print(
                f"{pooling:9} lr {lr:g}: held out {said(truth, scores(model, held_out))}; on its own "
                f"slides {float(roc_auc(seen, scores(model, bags))):.3f}; {seconds:.0f} s",
                flush=True,
            )


def nests(arguments: argparse.Namespace) -> None:
    """Print what both poolings learn, and the paired difference on slides that neither has seen."""
    cohort = Cohort(arguments.seed, arguments.dimension)
    bags, cases = cohort.draw(arguments.slides, arguments.patches, arguments.seed + 1)
    if arguments.shuffled:
        order = np.random.default_rng(arguments.seed).permutation(len(cases))
        cases = [cases[i] for i in order.tolist()]
    held_out, of = cohort.draw(arguments.held_out, arguments.patches, arguments.seed + 2)
    truth = np.array([bool(case.positive) for case in of])
    z = {}
    for pooling in ("attention", "mean"):
        options = BagOptions(pooling=pooling, seed=arguments.seed, patches=arguments.sees)
        if arguments.lr:
            options = msgspec.structs.replace(options, lr=arguments.lr[0])
        model, seconds = learn(bags, cases, options)
        z[pooling] = scores(model, held_out)
        print(f"{pooling}: {said(truth, z[pooling])}; {seconds:.0f} s", flush=True)
    d = auc_difference(truth, z["attention"], z["mean"])
    print(f"attention less mean: {d.value:+.3f} (95% {d.low:+.3f} to {d.high:+.3f}, p {d.p_value:.4f})")


def how_long(arguments: argparse.Namespace) -> None:
    """Print how long a fold takes: 240 of 300 slides, half-precision features in memory."""
    rng = np.random.default_rng(0)
    bags = [
        rng.standard_normal((arguments.patches, arguments.dimension), dtype=np.float32).astype(np.float16)
        for _ in range(arguments.slides * 4 // 5)
    ]
    cases = [Case("train", f"case{i}", ihc=ROWS[i % 5][0], ish=ROWS[i % 5][1]) for i in range(len(bags))]
    options = BagOptions()
    _, seconds = learn(bags, cases, options)
    print(
        f"{len(bags)} slides x {arguments.patches} patches x {arguments.dimension}, "
        f"{steps_of(len(bags), options)} steps of {options.batch} bags of up to {options.patches} patches, "
        f"{torch.get_num_threads()} threads of {os.cpu_count()} cores: {seconds:.1f} s"
    )


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("time", "rates", "nests"))
    parser.add_argument("--slides", type=int, default=300)
    parser.add_argument("--held-out", type=int, default=200)
    parser.add_argument("--patches", type=int, default=2000)
    parser.add_argument("--sees", type=int, default=512, help="patches of a slide that a step sees")
    parser.add_argument("--dimension", type=int, default=1024)
    parser.add_argument("--lr", type=float, nargs="*", default=[])
    parser.add_argument("--shuffled", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.what == "rates":
        arguments.lr = arguments.lr or [2e-4, 1e-3, 5e-3]
        rates(arguments)
    elif arguments.what == "nests":
        nests(arguments)
    else:
        how_long(arguments)


if __name__ == "__main__":
    main()
