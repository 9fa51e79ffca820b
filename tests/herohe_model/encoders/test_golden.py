"""Golden features tell encoders apart by what they compute."""

from __future__ import annotations

import hashlib

import msgspec
import numpy as np
import pytest
from helpers.small_encoders import random_network, small

from herohe_model.encoders.golden import EncoderRecord, check_record, golden_pictures, make_record
from herohe_model.encoders.table import Encoder
from herohe_model.errors import ModelFileError


def record(encoder: Encoder | None = None, *, seed: int = 0, sha256: str = "a" * 64) -> EncoderRecord:
    encoder = encoder or small()
    return make_record(encoder, random_network(encoder, seed), sha256)


def test_the_pictures_are_the_same_on_every_machine() -> None:
    pictures = golden_pictures(224)
    assert pictures.shape == (2, 224, 224, 3) and pictures.dtype == np.uint8
    assert hashlib.sha256(pictures.tobytes()).hexdigest() == (
        "c2606ea7f777fc52ba882982d2be2af96f98c46920d7aecb65125c27a510a194"
    )
    assert golden_pictures(28).shape == (2, 28, 28, 3)


def test_the_same_encoder_is_accepted_whatever_it_or_its_file_is_called() -> None:
    before = record()
    renamed = msgspec.structs.replace(small(), name="other")
    check_record(record(renamed, sha256="b" * 64), before, "features")
    assert msgspec.json.decode(msgspec.json.encode(before), type=EncoderRecord) == before


ImageNet = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@pytest.mark.parametrize(
    ("now", "why"),
    [
        (lambda: record(seed=1, sha256="b" * 64), "the weights are another file"),
        (lambda: record(msgspec.structs.replace(small(), **ImageNet)), r"it normalises by mean \(0\.485"),
        (
            lambda: record(msgspec.structs.replace(small(), pool="mean")),
            "the network is built otherwise",
        ),
        (lambda: record(small("lunit-vits8")), "the network is built otherwise"),
        (lambda: record(small(dimension=24)), "24 numbers a patch instead of 48"),
    ],
)
def test_another_encoder_is_refused_with_what_differs(now: object, why: str) -> None:
    with pytest.raises(ModelFileError, match=rf"^features was made by kaiko-vits16.*{why}"):
        check_record(now(), record(), "features")  # type: ignore[operator]


def test_a_timm_that_computes_something_else_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    before = record()
    encoder = small()
    network = random_network(encoder)
    # As when a version of timm changes an activation.
    for block in network.backbone.blocks:  # type: ignore[union-attr]
        block.mlp.act.forward = lambda x: x.relu()
    monkeypatch.setattr("timm.__version__", "9.9.9")
    with pytest.raises(ModelFileError, match=r"something else with timm 9\.9\.9.* than with timm 1\."):
        check_record(make_record(encoder, network, "a" * 64), before, "features")


def test_an_encoder_that_gives_no_finite_numbers_makes_no_record() -> None:
    network = random_network(small())
    network.backbone.norm.weight[0] = float("nan")  # type: ignore[index, union-attr]
    with pytest.raises(ModelFileError, match="kaiko-vits16 gave no finite numbers"):
        make_record(small(), network, "")
