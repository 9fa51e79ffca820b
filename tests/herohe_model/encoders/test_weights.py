"""Weights of encoders: read from files, and what they compute."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from helpers.small_encoders import names, random_state, small, write_weights
from timm.layers.mlp import SwiGLUPacked

from herohe_model.encoders.network import load_network
from herohe_model.encoders.table import Encoder
from herohe_model.encoders.weights import find_weights, load_weights, read_state
from herohe_model.errors import ModelFileError
from herohe_model.files import sha256_of


def features(encoder: Encoder, path: Path, pixels: np.ndarray) -> torch.Tensor:
    loaded = load_weights(encoder, path)
    with torch.inference_mode():
        return load_network(loaded.encoder, loaded.state, str(path))(torch.from_numpy(pixels))


def as_others_compute(encoder: Encoder, path: Path, pixels: np.ndarray) -> torch.Tensor:
    """As TRIDENT does: timm's network of any size, class token first."""
    layers = {"SwiGLUPacked": SwiGLUPacked, "SiLU": torch.nn.SiLU}
    arguments = {key: layers.get(value, value) for key, value in encoder.arguments.items()}
    model = timm.create_model(encoder.architecture, num_classes=0, global_pool="", **arguments).eval()
    model.load_state_dict(read_state(path), strict=True)
    assert encoder.mean is not None and encoder.std is not None
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    x = (x - torch.tensor(encoder.mean)[:, None, None]) / torch.tensor(encoder.std)[:, None, None]
    with torch.inference_mode():
        tokens = model(x)
    first = {"virchow": 1, "virchow2": 5}.get(encoder.name)
    return tokens[:, 0] if first is None else torch.cat([tokens[:, 0], tokens[:, first:].mean(1)], dim=1)


@pytest.mark.parametrize("name", names())
def test_an_encoder_of_each_form_computes_what_others_compute(tmp_path: Path, name: str) -> None:
    encoder = small(name)
    side = encoder.input_px
    pixels = np.random.default_rng(0).integers(0, 256, (3, side, side, 3), dtype=np.uint8)
    path = write_weights(tmp_path / "model.safetensors", encoder)
    found = features(encoder, path, pixels)
    expected = as_others_compute(encoder, path, pixels)
    assert found.shape == (3, encoder.dimension) and found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=1e-5, rtol=1e-4)
    assert float(found.std()) > 0.1


def test_a_pickle_of_tensors_gives_the_same_as_safetensors(tmp_path: Path) -> None:
    encoder = small()
    pixels = np.zeros((1, 32, 32, 3), np.uint8)
    one = features(encoder, write_weights(tmp_path / "a" / "model.safetensors", encoder), pixels)
    other = features(encoder, write_weights(tmp_path / "b" / "pytorch_model.bin", encoder), pixels)
    torch.save({"epoch": 3, "state_dict": random_state(encoder)}, tmp_path / "run.pth")
    assert torch.equal(one, other)
    assert torch.equal(one, features(encoder, tmp_path / "run.pth", pixels))


def test_a_classifier_that_the_encoder_has_not_is_left_out(tmp_path: Path) -> None:
    encoder = small()
    state = random_state(encoder)
    safetensors.torch.save_file({**state, "head.weight": torch.ones(5, 48)}, tmp_path / "w.safetensors")
    features(encoder, tmp_path / "w.safetensors", np.zeros((1, 32, 32, 3), np.uint8))


def test_half_precision_is_read_as_float32(tmp_path: Path) -> None:
    encoder = small()
    halves = {key: value.half() for key, value in random_state(encoder).items()}
    safetensors.torch.save_file(halves, tmp_path / "w.safetensors")
    network = load_network(encoder, read_state(tmp_path / "w.safetensors"), "w")
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_weights_of_another_encoder_are_refused_by_name(tmp_path: Path) -> None:
    path = write_weights(tmp_path / "model.safetensors", small("kaiko-vits8"))
    loaded = load_weights(small("uni_v1"), path)
    with pytest.raises(ModelFileError, match=r"model\.safetensors are no weights of uni_v1.*instead of"):
        load_network(loaded.encoder, loaded.state, str(path))


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    state = random_state(small())
    state["norm.bias"][3] = torch.nan
    torch.save(state, tmp_path / "w.bin")
    with pytest.raises(ModelFileError, match=r"norm\.bias holds numbers that are not finite"):
        load_network(small(), read_state(tmp_path / "w.bin"), "w")


def test_a_row_may_name_the_one_file_that_is_meant(tmp_path: Path) -> None:
    path = write_weights(tmp_path / "model.safetensors", small())
    sha256 = sha256_of(path)
    assert sha256 is not None
    pinned = msgspec.structs.replace(small(), sha256=sha256)
    assert load_weights(pinned, path).sha256 == sha256
    write_weights(path, small(), seed=1)
    with pytest.raises(ModelFileError, match="another file than the table names for kaiko-vits16"):
        load_weights(pinned, path)


class Bomb:
    """Whoever unpickles it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.mkdir, (self.path,)


def test_nothing_in_a_pickle_is_executed(tmp_path: Path) -> None:
    torch.save({"a": Bomb(tmp_path / "made")}, tmp_path / "w.bin")
    with pytest.raises(ModelFileError, match="would have to be executed"):
        read_state(tmp_path / "w.bin")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("held", [[1, 2], {"a": 1}, torch.ones(3), {1: torch.ones(2)}])
def test_what_holds_no_weights_by_name_is_refused(tmp_path: Path, held: object) -> None:
    torch.save(held, tmp_path / "w.bin")
    with pytest.raises(ModelFileError, match=r"w\.bin holds no weights by name"):
        read_state(tmp_path / "w.bin")


def test_damaged_weights_are_refused_by_name(tmp_path: Path) -> None:
    for name in ("model.safetensors", "pytorch_model.bin"):
        whole = write_weights(tmp_path / name, small()).read_bytes()
        for data in (b"", whole[:100], whole[: len(whole) // 2]):
            (tmp_path / name).write_bytes(data)
            with pytest.raises(ModelFileError, match=name):
                read_state(tmp_path / name)


def test_a_folder_is_searched_for_weights_as_timm_calls_them(tmp_path: Path) -> None:
    write_weights(tmp_path / "pytorch_model.bin", small())
    found = find_weights(small(), tmp_path)
    assert found is not None and (found.path.name, found.config) == ("pytorch_model.bin", None)
    write_weights(tmp_path / "model.safetensors", small())
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    found = find_weights(small(), tmp_path)
    assert found is not None and found.path.name == "model.safetensors" and found.config is not None
    with pytest.raises(ModelFileError, match="holds no weights of kaiko-vits16"):
        find_weights(small(), tmp_path / "none")
