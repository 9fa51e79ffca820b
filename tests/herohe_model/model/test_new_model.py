from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from herohe_model.errors import ModelFileError, OptionError
from herohe_model.model.checkpoint import load_model, save_model
from herohe_model.model.network import load_networks
from herohe_model.model.new_model import OFFLINE_VARIABLE, fetch_pretrained, new_model


def published(path: Path, backbone: str = "test_resnet", **arguments: object) -> Path:
    """Weights with a classifier of 1000 classes, as timm publishes them."""
    torch.manual_seed(99)
    state = timm.create_model(backbone, pretrained=False, **arguments).state_dict()
    safetensors.torch.save_file(state, path)
    return path


@pytest.mark.parametrize("head", ["free", "ordered"])
def test_the_same_seed_gives_the_same_file(tmp_path: Path, head: str) -> None:
    def write(name: str, seed: int) -> bytes:
        kind = "free" if head == "free" else "ordered"
        card, state = new_model("test_resnet", head=kind, target="ihc", patch_px=32, seed=seed, name="x")
        save_model(tmp_path / name, card, state)
        return (tmp_path / name).read_bytes()

    assert write("a", 1) == write("b", 1)
    assert write("a", 1) != write("c", 2)


def test_a_new_model_loads_and_its_card_says_what_was_asked() -> None:
    card, state = new_model(
        "test_efficientnet",
        head="ordered",
        target="ihc+ish",
        patch_px=64,
        mpp=0.5,
        foreground_threshold=0.1,
        name="trial",
    )
    assert (card.backbone, card.head, card.target) == ("test_efficientnet", "ordered", "ihc+ish")
    assert (card.patch_px, card.grid, card.mpp, card.foreground_threshold) == (64, 5, 0.5, 0.1)
    assert card.name == "trial"
    assert card.positive_step == ">=2+/ISH+"
    assert card.versions.keys() == {"herohe-bridge", "timm", "torch"}
    assert "not trained" in card.note
    assert len(load_networks(card, state)) == 1


def test_normalisation_is_what_the_backbone_was_published_with() -> None:
    inception, _ = new_model("inception_v3.tf_in1k", head="free", target="ihc", patch_px=32)
    assert inception.mean == inception.std == (0.5, 0.5, 0.5)
    resnet, _ = new_model("resnet10t", head="free", target="ihc", patch_px=32)
    assert resnet.mean == (0.485, 0.456, 0.406)


def test_making_a_model_leaves_the_callers_random_numbers_alone(tmp_path: Path) -> None:
    weights = published(tmp_path / "w.safetensors")
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    new_model("test_resnet", head="free", target="ihc", patch_px=32, weights=weights)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("patch_px", "mpp", "name"),
    [(8, 0.25, None), (32, 0.0, None), (32, 0.25, "two\nlines"), (32, 0.25, "x" * 101)],
)
def test_what_no_model_can_be_is_refused(patch_px: int, mpp: float, name: str | None) -> None:
    with pytest.raises(OptionError, match=r"No such model can be made|does not take composites"):
        new_model("test_resnet", head="free", target="ihc", patch_px=patch_px, mpp=mpp, name=name)


def test_published_weights_from_a_file_become_the_backbones(tmp_path: Path) -> None:
    file = published(tmp_path / "w.safetensors")
    card, state = new_model("test_resnet", head="free", target="ihc", patch_px=32, weights=file)
    source = safetensors.torch.load_file(file)
    backbone = {key.removeprefix("backbone."): t for key, t in state.items() if key.startswith("backbone.")}
    assert backbone.keys() == {key for key in source if not key.startswith("fc.")}
    assert all(torch.equal(tensor, source[key]) for key, tensor in backbone.items())
    load_networks(card, state)


def test_position_embeddings_are_adapted_to_the_composite(tmp_path: Path) -> None:
    file = published(tmp_path / "w.safetensors", "test_vit", img_size=160)
    _, state = new_model("test_vit", head="free", target="ihc", patch_px=64, weights=file)
    source = safetensors.torch.load_file(file)
    assert source["pos_embed"].shape[1] == 101
    assert state["backbone.pos_embed"].shape[1] == 401
    assert torch.equal(state["backbone.blocks.0.attn.qkv.weight"], source["blocks.0.attn.qkv.weight"])


def test_weights_of_another_backbone_are_refused(tmp_path: Path) -> None:
    file = published(tmp_path / "w.safetensors", "test_efficientnet")
    with pytest.raises(
        ModelFileError, match=r"w\.safetensors does not fit the backbone test_resnet: .*size mismatch"
    ):
        new_model("test_resnet", head="free", target="ihc", patch_px=32, weights=file)


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    file = published(tmp_path / "w.safetensors", "resnet18")
    with pytest.raises(ModelFileError, match=r"w\.safetensors (does not fit the backbone|lacks)"):
        new_model("resnet10t", head="free", target="ihc", patch_px=32, weights=file)


def test_weights_that_lack_a_layer_are_refused(tmp_path: Path) -> None:
    state = safetensors.torch.load_file(published(tmp_path / "w.safetensors"))
    del state["layer3.0.conv1.weight"]
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(
        ModelFileError, match=r"lacks 1 of the weights of test_resnet \(layer3\.0\.conv1\.weight"
    ):
        new_model("test_resnet", head="free", target="ihc", patch_px=32, weights=tmp_path / "w.safetensors")


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(3)}, tmp_path / "w.pth")
    with pytest.raises(ModelFileError, match="is a pickled PyTorch file"):
        new_model("test_resnet", head="free", target="ihc", patch_px=32, weights=tmp_path / "w.pth")


def hub_cache(root: Path, repository: str) -> Path:
    """The hub's cache as it stands after a download, holding one repository."""
    folder = root / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    return snapshot / "model.safetensors"


def test_pretrained_weights_come_from_the_hubs_cache_when_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OFFLINE_VARIABLE, "1")
    file = published(hub_cache(tmp_path, "timm/test_resnet.r160_in1k"))
    assert fetch_pretrained("test_resnet", cache_dir=tmp_path) == file


def test_pretrained_weights_that_cannot_be_had_name_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OFFLINE_VARIABLE, "1")
    with pytest.raises(ModelFileError) as caught:
        fetch_pretrained("resnet18", cache_dir=tmp_path)
    assert "pretrained weights of resnet18 (timm/resnet18" in str(caught.value)
    assert "HF_HUB_OFFLINE is set, and they are not in the cache" in str(caught.value)
    assert "fetch its model.safetensors elsewhere and name that file" in str(caught.value)


def test_a_backbone_without_published_weights_says_so() -> None:
    with pytest.raises(ModelFileError, match="knows no pretrained weights of coatnet_0_224"):
        fetch_pretrained("coatnet_0_224")


def test_a_saved_new_model_reads_back(tmp_path: Path) -> None:
    card, state = new_model("test_resnet", head="free", target="ihc", patch_px=32)
    sha256 = save_model(tmp_path / "m.safetensors", card, state)
    loaded, loaded_state, loaded_sha256 = load_model(tmp_path / "m.safetensors")
    assert (loaded, loaded_sha256) == (card, sha256)
    assert all(torch.equal(loaded_state[key], state[key]) for key in state)
