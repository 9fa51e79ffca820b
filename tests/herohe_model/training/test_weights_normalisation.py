"""The normalisation of weights that a composite's network begins with."""

from __future__ import annotations

from pathlib import Path

import pytest

from herohe_model.errors import HeroheError, OptionError
from herohe_model.model.new_model import new_model
from herohe_model.training.weights_normalisation import normalisation_of

OWN = ((0.7, 0.6, 0.7), (0.2, 0.25, 0.2))


def test_it_is_taken_from_what_lies_beside_the_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"pretrained_cfg": {"mean": [0.7, 0.6, 0.7], "std": [0.2, 0.25, 0.2]}}', encoding="utf-8"
    )
    assert normalisation_of(tmp_path / "w.safetensors", "resnet18", None) == OWN
    assert normalisation_of(tmp_path / "w.safetensors", "resnet18", "timm") is None


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("0.7,0.6,0.7/0.2,0.25,0.2", OWN),
        ("half", ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))),
        ("imagenet", ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))),
        ("timm", None),
    ],
)
def test_it_can_be_said(tmp_path: Path, said: str, meant: object) -> None:
    assert normalisation_of(tmp_path / "w.safetensors", "resnet18", said) == meant


def test_where_nobody_says_it_it_is_asked_for_with_what_timm_would_take(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"w\.safetensors does not say.*resnet18 is 0\.485,0\.456,0\.406/"):
        normalisation_of(tmp_path / "w.safetensors", "resnet18", None)


@pytest.mark.parametrize(
    "said", ["", "none", "1,2,3", "0.5,0.5/0.5,0.5,0.5", "2,2,2/1,1,1", "0,0,0/0,0,0", "a/b"]
)
def test_what_normalises_no_picture_is_refused(tmp_path: Path, said: str) -> None:
    with pytest.raises(OptionError, match="is no normalisation"):
        normalisation_of(tmp_path / "w.safetensors", "resnet18", said)
    (tmp_path / "config.json").write_text('{"mean": [9, 9, 9], "std": [1, 1, 1]}', encoding="utf-8")
    with pytest.raises(HeroheError, match=r"config\.json: mean is"):
        normalisation_of(tmp_path / "w.safetensors", "resnet18", None)


def test_the_card_says_it() -> None:
    card, _ = new_model("test_resnet", head="free", target="ihc", patch_px=32, normalisation=OWN)
    assert (card.mean, card.std) == OWN
