"""An encoder at work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.small_encoders import random_state, small
from numpy.typing import NDArray

from herohe_model.encoders.weights import LoadedWeights
from herohe_model.engines import embedder as room
from herohe_model.engines.embedder import Embedder
from herohe_model.errors import DeviceError, OptionError
from herohe_model.model.compute import Compute


def loaded(name: str = "kaiko-vits16", seed: int = 0) -> LoadedWeights:
    encoder = small(name)
    return LoadedWeights(encoder, Path("w.safetensors"), random_state(encoder, seed), "a" * 64)


def pictures(count: int, side: int = 32) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


EXACT = Compute("cpu", "fp32", "torch")


def test_a_feature_depends_on_its_patch_alone() -> None:
    pixels = pictures(8)
    with Embedder(loaded(), EXACT) as embedder:
        together = embedder.submit(pixels).result()
        backwards = embedder.submit(pixels[::-1].copy()).result()[::-1]
        alone = np.concatenate([embedder.submit(pixels[i : i + 1]).result() for i in range(8)])
    assert together.shape == (8, 48) and together.dtype == np.float32
    assert together.tobytes() == backwards.tobytes() == alone.tobytes()


@pytest.mark.parametrize("name", ["kaiko-vits16", "kaiko-vitl14", "virchow2", "uni_v2", "h0-mini"])
def test_openvino_gives_what_pytorch_gives(name: str) -> None:
    weights = loaded(name)
    pixels = pictures(5, weights.encoder.input_px)
    with Embedder(weights, EXACT) as exact, Embedder(weights, Compute("cpu", "fp32", "openvino")) as other:
        one, two = exact.submit(pixels).result(), other.submit(pixels).result()
        assert other.info.engine.startswith("openvino")
    assert np.abs(one - two).max() < 1e-3 * np.abs(one).max()


def test_the_fastest_engine_that_agrees_is_chosen_once_and_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEROHE_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(room, "WORTH_MEASURING", 0)
    with Embedder(loaded(), Compute("cpu")) as embedder:
        chosen = embedder.info
    assert len(list((tmp_path / "embedders").glob("*.json"))) == 1

    def never(*_: object) -> None:
        raise AssertionError("measured twice")

    monkeypatch.setattr(room, "_trials", never)
    with Embedder(loaded(), Compute("cpu")) as again:
        assert again.info == chosen


def test_a_small_encoder_is_not_worth_measuring() -> None:
    with Embedder(loaded(), Compute("cpu")) as embedder:
        assert (embedder.info.precision, embedder.info.engine.split()[0]) == ("fp32", "torch")


def test_what_computes_something_else_than_pytorch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "ENGINES_APART", 1e-9)
    with pytest.raises(DeviceError, match=r"in bf16 on cpu gives features of kaiko-vits16 that are .* fp32"):
        Embedder(loaded(), Compute("cpu", "bf16", "torch"))


def test_patches_of_another_size_are_refused() -> None:
    with Embedder(loaded(), EXACT) as embedder:
        for wrong in (pictures(9), pictures(1, 16), pictures(1).astype(np.float32)):
            with pytest.raises(OptionError, match="Patches for kaiko-vits16 are uint8"):
                embedder.submit(wrong)  # type: ignore[arg-type]


def test_the_record_holds_what_it_gives_for_the_drawn_pictures() -> None:
    with Embedder(loaded(), EXACT) as embedder:
        pixels = room.golden_pictures(32)
        found = embedder.submit(pixels).result()
        assert np.allclose(found, np.array(embedder.info.record.golden), atol=1e-5)
        threads = torch.get_num_threads()
    assert torch.get_num_threads() == threads
