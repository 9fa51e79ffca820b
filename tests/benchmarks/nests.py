"""Composites, means and attention where the grade shows in small nests and nobody drew, from pixels on.

    python tests/benchmarks/nests.py [--slides 150] [--held-out 100] [--expressing 0.35] [--shuffled]

Slides are drawn with a tumour in which a share of small squares shows the grade, 10 to 20% of the tissue.
Around it lies stroma with rings of all grades, and a tissue of another tint that shows a grade of its own
everywhere, which tells nothing: a background that the mean of a slide is full of. An encoder is trained on
the way, on other slides whose tumour is drawn and shows its grade everywhere. On whole slides, three models
learn from the same cases: composites, end to end; and on the encoder's features a mean and an attention
head. Held-out slides judge them, in pairs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import safetensors.torch
import torch
from bags import learn, said, scores
from click.testing import CliRunner
from helpers.synthetic_cohort import MPP, CohortRules, CohortSlide, make_cohort
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from bridge.cli import cli
from herohe_model.dataset.submission import read_submission
from herohe_model.evaluation.differences import auc_difference
from herohe_model.grades import GRADES
from herohe_model.model.checkpoint import load_model, load_tensors
from herohe_model.model.network import OrdinalNetwork
from herohe_model.sampling.patches import find_patches
from herohe_model.slides.slide import Slide
from herohe_model.synthetic.phantom import draw_phantom
from herohe_model.synthetic.slides import write_tiff
from herohe_model.training.bag_loop import BagOptions
from herohe_model.training.composite_folds import train_folds
from herohe_model.training.cross_validation import FoldPlan
from herohe_model.training.data import TrainingSlide
from herohe_model.training.loop import NullListener
from herohe_model.training.options import TrainOptions
from herohe_model.training.processes import Processes
from herohe_model.training.step import Resources

PATCH_PX = 32
TINT = (1.35, 1.0, 0.75)
"""Powers of the light of red, green and blue by which the other tissue is bluer."""
OPTIONS = TrainOptions(
    backbone="test_resnet", patch_px=PATCH_PX, mpp=MPP, pretrained=False, batch=8, micro_batch=8, lr=3e-3,
    composites_per_slide=2, validate_every=0, checkpoint_every=10_000, precision="fp32",
)  # fmt: skip


def train(slides: list[TrainingSlide], folder: Path, options: TrainOptions, weights: Path | None) -> Path:
    """Train composites once on all slides; return the model file."""
    alone = Processes(0, 1, torch.device("cpu"))
    return train_folds(
        slides, FoldPlan("none"), options, folder, name="nests", processes=alone, weights=weights,
        resources=Resources(workers=1, preload=True), listener=NullListener(),
    ).model  # fmt: skip


def distract(slides: list[CohortSlide], seed: int) -> None:
    """Lay another tissue over a part of each slide beside its tumour."""
    rng = np.random.default_rng(seed)
    for number, one in enumerate(slides):
        with Slide(one.slide.path) as slide:
            side = slide.size[0]
            picture = slide.read_box(0, 0, side, side, (side, side))
        grade = GRADES[int(rng.integers(len(GRADES)))]
        other = draw_phantom(
            grade,
            seed=1_000_000 * seed + number,
            side=side,
            tumours=3,
            amplified=bool(rng.integers(2)),
            square_px=40,
        )
        mask = Image.new("L", (side, side))
        pen = ImageDraw.Draw(mask)
        for outline in other.tumour:
            pen.polygon([tuple(point) for point in np.asarray(outline).tolist()], fill=255)
        for part in getattr(one.slide.geometry, "geoms", []):
            pen.polygon(list(part.exterior.coords), fill=0)
        over = np.asarray(mask) > 0
        tinted = 255 * (other.picture / 255.0) ** np.array(TINT)
        picture = np.where(over[..., None], tinted.astype(np.uint8), picture)
        write_tiff(one.slide.path, picture, mpp=MPP)


def whole(slides: list[CohortSlide]) -> list[TrainingSlide]:
    """Return slides on which nobody drew."""
    return [replace(slide.slide, geometry=None) for slide in slides]


def embedded(network: OrdinalNetwork, slides: list[CohortSlide]) -> list[NDArray[np.float16]]:
    """Return the features of all foreground patches of each slide."""
    bags = []
    for cohort_slide in slides:
        with Slide(cohort_slide.slide.path) as slide:
            found = find_patches(slide, None, patch_px=PATCH_PX, mpp=MPP, threshold=0.07)
            pixels = np.stack(
                [
                    slide.read_box(x, y, found.size, found.size, (PATCH_PX, PATCH_PX))
                    for x, y in zip(found.x.tolist(), found.y.tolist(), strict=True)
                ]
            )
        with torch.inference_mode():
            maps = [network.features(torch.from_numpy(part)) for part in np.array_split(pixels, 4)]
        bags.append(torch.cat(maps).mean(dim=(2, 3)).numpy().astype(np.float16))
    return bags


def predicted(model: Path, folder: Path, output: Path) -> dict[str, float]:
    """Return P(positive) of each slide of a folder, by as many composites as hold all its patches."""
    asked = ("--composites", "all", "--artefacts", "ignore", "--any-stain")
    result = CliRunner().invoke(
        cli, ["predict", str(folder), "--model", str(model), "--output", str(output), *asked]
    )
    if result.exit_code:
        raise SystemExit(f"{result.output}\n{result.exception}")
    submission = read_submission(output)
    return dict(zip(submission.case_ids, submission.soft.tolist(), strict=True))


def main() -> None:
    """Print the held-out AUC of each, and the paired differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--slides", type=int, default=150)
    parser.add_argument("--held-out", type=int, default=100)
    parser.add_argument("--expressing", type=float, default=0.35)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--from-encoder", action="store_true", help="composites begin with its weights")
    parser.add_argument("--shuffled", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rules = CohortRules(side_px=768, noise=0.0, expressing=arguments.expressing)
    with tempfile.TemporaryDirectory() as home:
        folder, began = Path(home), time.monotonic()

        def say(text: str) -> None:
            print(f"[{time.monotonic() - began:5.0f} s] {text}", flush=True)

        drawn = make_cohort(folder / "drawn", 120, seed=90, rules=replace(rules, expressing=1.0))
        cohort = make_cohort(folder / "cohort", arguments.slides, seed=arguments.seed + 1, rules=rules)
        held_out = make_cohort(folder / "held-out", arguments.held_out, seed=arguments.seed + 2, rules=rules)
        distract(cohort, arguments.seed + 3)
        distract(held_out, arguments.seed + 4)
        if arguments.shuffled:
            order = np.random.default_rng(arguments.seed).permutation(len(cohort)).tolist()
            cases = [
                replace(cohort[k].slide.case, id=one.slide.case.id)
                for k, one in zip(order, cohort, strict=True)
            ]
            cohort = [
                replace(one, slide=replace(one.slide, case=case))
                for one, case in zip(cohort, cases, strict=True)
            ]
        truth = np.array([bool(one.slide.case.positive) for one in held_out])
        say("drawn")
        options = msgspec.structs.replace(OPTIONS, epochs=arguments.epochs)
        encoder = train([one.slide for one in drawn], folder / "encoder", options, None)
        card, state, _ = load_model(encoder)
        network = OrdinalNetwork(card).eval()
        network.load_state_dict(state, strict=False)
        weights = folder / "backbone.safetensors"
        backbone = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
        safetensors.torch.save_file(backbone, weights)
        say("encoder trained")
        z = {}
        composites = options
        if arguments.from_encoder:
            composites = msgspec.structs.replace(options, weights_sha256=load_tensors(weights)[2], lr=1e-3)
        begin = weights if arguments.from_encoder else None
        model = train(whole(cohort), folder / "composites", composites, begin)
        found = predicted(model, folder / "held-out", folder / "composites.csv")
        z["composites"] = np.array([found[one.slide.case.id] for one in held_out])
        say(f"composites: {said(truth, z['composites'])}")
        bags, judged = embedded(network, cohort), embedded(network, held_out)
        say(f"{np.mean([len(bag) for bag in bags]):.0f} patches a slide, {bags[0].shape[1]} numbers a patch")
        for pooling in ("mean", "attention"):
            heads = BagOptions(pooling=pooling, lr=1e-3, epochs=60, seed=arguments.seed)
            head, _ = learn(bags, [one.slide.case for one in cohort], heads)
            z[pooling] = scores(head, judged)
            say(f"{pooling}: {said(truth, z[pooling])}")
        for other in ("mean", "composites"):
            d = auc_difference(truth, z["attention"], z[other])
            within = f"95% {d.low:+.3f} to {d.high:+.3f}, p {d.p_value:.4f}"
            say(f"attention less {other}: {d.value:+.3f} ({within})")


if __name__ == "__main__":
    main()
