"""Results made by hand, for tests that store, write or show them."""

from __future__ import annotations

from bridge.results.schema import (
    CompositeResult,
    ForegroundPatch,
    Outcome,
    PlacedPatch,
    Prediction,
    Provenance,
    RegionResult,
    SlideResult,
)

STEPS = ("3+", ">=2+", ">=1+")


def made_prediction(p_positive: float = 0.75) -> Prediction:
    return Prediction(
        grade="2+",
        status="HER2-positive",
        p_positive=p_positive,
        p_positive_sd=0.012345,
        expected_grade=1.85,
        at_least={"1+": 0.9, "2+": p_positive, "3+": 0.2},
        levels={"0": 0.1, "1+": 0.15, "2+": 0.55, "3+": 0.2},
    )


def made_region(region: str = "slide", annotations: tuple[str, ...] = ("a", "b")) -> RegionResult:
    """Two composites of two cells, over three patches of which one is drawn twice."""
    return RegionResult(
        region=region,
        name="Tumour 1" if region != "slide" else "",
        class_name="Tumor",
        annotations=annotations,
        outcome=Outcome.SCORED,
        patches_foreground=4,
        patches_sampled=3,
        prediction=made_prediction(),
        composites=(
            CompositeResult(0, (-1.0, 1.0, 2.0), 0.7, "2+"),
            CompositeResult(1, (-1.0, 1.2, 2.0), 0.8, "2+"),
        ),
        patches=(
            PlacedPatch(100, 200, 50, 0, 0, 0.25, (-0.5, 0.5, 1.0)),
            PlacedPatch(150, 200, 50, 0, 1, 0.375, (-0.5, 0.5, 1.0)),
            PlacedPatch(100, 200, 50, 1, 0, 0.25, (-0.25, 0.75, 1.0)),
            PlacedPatch(100, 250, 50, 1, 1, 0.5, (-0.75, 0.45, 1.0)),
        ),
        unsampled=(ForegroundPatch(200, 250, 50, 0.125),),
    )


def made_provenance() -> Provenance:
    return Provenance(
        run="0123456789abcdef",
        model="trial",
        model_sha256="ab" * 32,
        target="ihc",
        steps=STEPS,
        seed=7,
        device="cpu",
        precision="fp32",
        options={"composites": 2},
        versions={"numpy": "2"},
        regions_sha256="cd" * 32,
        slide_fingerprint="ef" * 32,
        slide_mpp=0.25,
        model_mpp=0.25,
        patch_px=50,
    )


def made_result(entry: str = "1", *, per_annotation: bool = False) -> SlideResult:
    return SlideResult(
        entry=entry,
        slide=f"slide-{entry}.tif",
        path=f"slides/slide-{entry}.tif",
        outcome=Outcome.SCORED,
        warnings=("coarse",),
        union=made_region(),
        annotations=(made_region("a", ("a",)), made_region("b", ("b",))) if per_annotation else (),
        provenance=made_provenance(),
    )
