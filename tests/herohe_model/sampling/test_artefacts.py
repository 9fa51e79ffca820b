"""Patches that cannot be judged are told, each with its reason; tissue, pale or dark, is not among them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.small_slides import tissue_picture
from numpy.typing import NDArray

from herohe_model.sampling.artefacts import ArtefactRule, artefacts_in_words
from herohe_model.sampling.patches import PatchSet, find_patches
from herohe_model.slides.slide import Slide
from herohe_model.synthetic.phantom import draw_phantom, look_like_tissue
from herohe_model.synthetic.slides import write_tiff

SIDE, PX = 1024, 64
EOSIN = np.array([0.07, 0.99, 0.11])
HAEMATOXYLIN = np.array([0.65, 0.70, 0.29])


def absorbing(*rgb: float) -> NDArray[np.float64]:
    """Densities of what lets so much of white light, 255, through."""
    return -np.log(np.array(rgb) / 255.0)


def stained(seed: int = 0, strength: float = 1.0) -> NDArray[np.float64]:
    """Densities of tissue: eosin that varies, and nuclei."""
    rng = np.random.default_rng(seed)
    eosin = np.kron(rng.uniform(0.3, 0.6, (SIDE // 16, SIDE // 16)), np.ones((16, 16)))
    nuclei = np.kron(rng.random((SIDE // 8, SIDE // 8)) < 0.25, np.ones((8, 8)))
    return strength * (eosin[..., None] * EOSIN + 0.9 * nuclei[..., None] * HAEMATOXYLIN)


def found(
    folder: Path, density: NDArray[np.float64], rule: ArtefactRule = "leave-out", **options: object
) -> PatchSet:
    """What is found on a slide of these densities, under noise and JPEG."""
    noise = np.random.default_rng(9).normal(0, 3, density.shape)
    picture = np.clip(245 * np.exp(-density) + noise, 0, 255).astype(np.uint8)
    write_tiff(folder / "s.tif", picture, mpp=0.5)
    settings: dict[str, object] = {"threshold": 0.07, **options}
    with Slide(folder / "s.tif") as slide:
        return find_patches(slide, None, patch_px=PX, mpp=0.5, artefacts=rule, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("strength", [0.3, 0.5, 1.0, 1.8])
def test_tissue_is_no_artefact_however_strongly_it_is_stained(tmp_path: Path, strength: float) -> None:
    patches = found(tmp_path, stained(strength=strength))
    assert (len(patches), dict(patches.artefacts)) == (256, {})


@pytest.mark.parametrize(
    ("colour", "on", "reasons"),
    [
        (absorbing(40, 150, 70), "tissue", {"pen"}),
        (absorbing(40, 70, 170), "tissue", {"pen"}),
        (absorbing(225, 25, 40), "glass", {"pen", "blood"}),
        (absorbing(35, 33, 36), "tissue", {"dark"}),
        (absorbing(190, 60, 66), "glass", {"blood"}),
        (absorbing(240, 205, 120), "glass", {"mountant"}),
        (absorbing(150, 95, 50), "glass", {"brown"}),
        (absorbing(250, 238, 216), "glass", {"glass"}),
    ],
)
def test_each_kind_is_left_out_with_its_reason_and_the_tissue_beside_it_stays(
    tmp_path: Path, colour: NDArray[np.float64], on: str, reasons: set[str]
) -> None:
    density = stained()
    band = np.s_[256:512]
    density[band] = (density[band] if on == "tissue" else 0) + colour
    patches = found(tmp_path, density)
    # Of the patches along its edge, a pixel of what is looked at may lie across.
    assert not np.any((patches.y > 256) & (patches.y < 448))
    assert np.count_nonzero((patches.y < 256) | (patches.y >= 512)) == 192
    assert set(patches.artefacts) <= reasons and sum(patches.artefacts.values()) >= 32


def test_a_fold_is_told_by_the_tissue_beside_it(tmp_path: Path) -> None:
    density = stained()
    density[256:512] *= 2.8
    patches = found(tmp_path, density)
    assert set(patches.artefacts) == {"fold"} and 48 <= patches.artefacts["fold"] <= 64
    assert np.count_nonzero((patches.y < 256) | (patches.y >= 512)) == 192
    density[512:768] *= 2.8
    assert len(found(tmp_path, density)) == 256, "half of it is no fold, but dense tissue beside pale"


def test_marked_patches_are_kept_and_ignored_ones_not_looked_for(tmp_path: Path) -> None:
    density = stained()
    density[:64] += absorbing(40, 150, 70)
    marked = found(tmp_path, density, "mark")
    assert len(marked) == 256 and dict(marked.artefacts) == {"pen": 16} and marked.reasons is not None
    assert set(marked.y[marked.reasons > 0].tolist()) == {0}
    ignored = found(tmp_path, density, "ignore")
    assert (len(ignored), dict(ignored.artefacts), ignored.reasons) == (256, {}, None)


def test_drawn_pictures_of_tissue_are_no_artefacts(tmp_path: Path) -> None:
    """Those of the tests, and those of the demo, whose brown rings are no DAB."""
    write_tiff(tmp_path / "t.tif", tissue_picture(512), mpp=0.5)
    pictures = [tmp_path / "t.tif"]
    for grade in ("0", "3+"):
        phantom = draw_phantom(grade, seed=1, side=1024)
        pictures.append(tmp_path / f"{grade[0]}.tif")
        write_tiff(pictures[-1], look_like_tissue(phantom, seed=1), mpp=0.5)
    for path in pictures:
        with Slide(path) as slide:
            assert dict(find_patches(slide, None, patch_px=32, mpp=0.5, threshold=0.07).artefacts) == {}, path


@pytest.mark.slide
def test_of_a_real_slide_all_but_the_ink_at_its_margin_is_kept(real_slide: Path) -> None:
    with Slide(real_slide) as slide:
        tissue, kept = (
            find_patches(slide, None, patch_px=256, mpp=slide.mpp, threshold=0.07, artefacts=rule)
            for rule in ("ignore", "leave-out")
        )
    assert len(kept) >= 0.97 * len(tissue)


def test_otsu_parts_tissue_from_glass_on_the_whole_slide(tmp_path: Path) -> None:
    density = stained()
    density[:, 512:] *= 0.02
    whole = found(tmp_path, density, threshold="otsu")
    assert 0.05 < whole.threshold < 0.4 and len(whole) == 128


def test_words_begin_with_the_most() -> None:
    assert artefacts_in_words({"pen": 2, "fold": 31}) == "31 fold, 2 pen"
