from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import safetensors.torch
import torch

from herohe_model.errors import ModelFileError
from herohe_model.model.card import (
    CARD_KEY,
    FORMAT_VERSION,
    MAX_FILE_BYTES,
    ModelCard,
    check_card,
    read_card,
)
from herohe_model.model.checkpoint import join_members, load_model, member_states, save_model

STATE = {
    "backbone.weight": torch.arange(12, dtype=torch.float32).reshape(3, 4) / 7,
    "backbone.batches": torch.tensor(5),
    "head.bias": torch.tensor([-1.5, 0.0, 1.5]),
}


def card(**changes: Any) -> ModelCard:
    fields: dict[str, Any] = {
        "name": "small",
        "backbone": "test_resnet",
        "head": "free",
        "target": "ihc",
        "mpp": 0.2425,
        "foreground_threshold": 0.07,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
        "positive_step": ">=2+",
    }
    return ModelCard(**{**fields, **changes})


def raw_file(path: Path, header: object, data: bytes = b"") -> Path:
    """A safetensors file with any header at all."""
    encoded = json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + data)
    return path


def card_json(**changes: object) -> str:
    fields = json.loads(msgspec.json.encode(card()))
    fields.update(changes)
    return json.dumps(fields)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.safetensors"
    save_model(path, card(), STATE)
    return path


def refusal(path: Path) -> str:
    """The sentence that refuses a file; the same from both ways of reading it, and naming the file."""
    with pytest.raises(ModelFileError) as loading:
        load_model(path)
    with pytest.raises(ModelFileError) as reading:
        read_card(path)
    assert str(loading.value) == str(reading.value)
    assert str(path) in str(loading.value)
    assert loading.value.remedy
    return str(loading.value)


def test_a_model_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "Modèle 1.safetensors"
    saved = card(metrics={"f1": 0.7, "by grade": {"2+": [0.5, 0.9]}}, members=1, versions={"torch": "2"})
    sha256 = save_model(path, saved, STATE)
    loaded, state, loaded_sha256 = load_model(path)
    assert loaded == saved
    assert state.keys() == STATE.keys()
    assert all(torch.equal(state[key], STATE[key]) and state[key].dtype == STATE[key].dtype for key in STATE)
    assert sha256 == loaded_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert read_card(path) == (saved, sha256)


def test_the_same_card_and_weights_give_the_same_bytes(tmp_path: Path) -> None:
    versions = {"torch": "2", "timm": "1", "herohe-bridge": "0"}
    backwards = dict(reversed(versions.items()))
    save_model(tmp_path / "a", card(versions=versions), STATE)
    save_model(tmp_path / "b", card(versions=backwards), dict(reversed(STATE.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_layout_in_memory_does_not_change_the_bytes(tmp_path: Path) -> None:
    weight = torch.rand(4, 3, 2, 2)
    shared = torch.rand(6)
    save_model(tmp_path / "a", card(), {"w": weight, "x": shared, "y": shared[:3]})
    other = {"w": weight.to(memory_format=torch.channels_last), "x": shared.clone(), "y": shared[:3].clone()}
    save_model(tmp_path / "b", card(), other)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_any_safetensors_reader_can_open_a_model(model: Path) -> None:
    state = safetensors.torch.load_file(model)
    assert torch.equal(state["head.bias"], STATE["head.bias"])


def test_saving_replaces_a_model_and_leaves_nothing_beside_it(model: Path) -> None:
    sha256 = save_model(model, card(name="second"), STATE)
    assert read_card(model) == (card(name="second"), sha256)
    assert [p.name for p in model.parent.iterdir()] == [model.name]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_not_saved(model: Path, bad: float) -> None:
    before = model.read_bytes()
    with pytest.raises(ModelFileError, match=r"head\.bias holds numbers that are not finite"):
        save_model(model, card(), {**STATE, "head.bias": torch.tensor([0.0, bad, 0.0])})
    assert model.read_bytes() == before
    assert [p.name for p in model.parent.iterdir()] == [model.name]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"nowhere.m\.safetensors cannot be written"):
        save_model(tmp_path / "nowhere" / "m.safetensors", card(), STATE)


def test_a_card_that_would_not_read_back_is_not_saved(tmp_path: Path) -> None:
    for wrong in (
        card(patch_px=8),
        card(mpp=-1.0),
        card(temperature=0.0),
        card(name="two\nlines"),
        card(members=0),
    ):
        with pytest.raises(ModelFileError, match="model card is not valid"):
            save_model(tmp_path / "m", wrong, STATE)
    with pytest.raises(ModelFileError, match="cannot be written as JSON"):
        save_model(tmp_path / "m", card(metrics={"f1": torch.tensor(0.5)}), STATE)
    assert list(tmp_path.iterdir()) == []


def test_a_checked_card_is_as_it_will_be_read() -> None:
    assert check_card(card(metrics={"interval": (0.1, 0.2)})).metrics == {"interval": [0.1, 0.2]}


@pytest.mark.parametrize(
    "changes",
    [
        {"positive_step": ">=2+/ISH+"},
        {"positive_step": ""},
        {"std": (0.0, 0.2, 0.2)},
        {"mean": (float("nan"), 0.5, 0.5)},
    ],
)
def test_a_card_that_contradicts_itself_cannot_be_made(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"positive_step|out of range"):
        card(**changes)


def test_a_card_knows_its_steps() -> None:
    four = card(target="ihc+ish", positive_step=">=2+/ISH+", patch_px=64)
    assert four.steps == ("3+", ">=2+/ISH+", ">=2+", ">=1+")
    assert four.positive_bit == 1
    assert four.side_px == 320


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "There is no model file" in refusal(tmp_path / "no.safetensors")


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    assert "is a folder or a device" in refusal(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")
def test_a_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "is a folder or a device" in refusal(tmp_path / "pipe")


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m").touch()
    assert "is empty" in refusal(tmp_path / "m")


@pytest.mark.parametrize(
    "content", [b"\x93HDF\r\n\x1a\n" * 9, b"{", b"weights: none\n", b"\x89PNG\r\n\x1a\n" * 2]
)
def test_another_format_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m").write_bytes(content)
    assert "is not a safetensors file" in refusal(tmp_path / "m")


def pytorch_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"weights": [1.0]}))


def pytorch_legacy(path: Path) -> None:
    path.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2) + pickle.dumps({"weights": [1.0]}))


def plain_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"weights": list(range(100))}))


@pytest.mark.parametrize("write", [pytorch_zip, pytorch_legacy, plain_pickle])
def test_a_pickled_file_is_refused_with_its_own_sentence(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    write(tmp_path / "m.safetensors")
    assert "is a pickled PyTorch file, which can run code" in refusal(tmp_path / "m.safetensors")


def test_a_header_whose_length_looks_like_a_pickle_is_no_pickle(tmp_path: Path) -> None:
    padding = 0x10280 - len(json.dumps({"__metadata__": {CARD_KEY: card_json(), "x": ""}}))
    assert padding > 0
    path = raw_file(tmp_path / "m", {"__metadata__": {CARD_KEY: card_json(), "x": "-" * padding}})
    assert path.read_bytes()[:2] == b"\x80\x02"
    assert read_card(path)[0] == card()


def test_a_file_cut_at_any_place_is_refused(model: Path) -> None:
    whole = model.read_bytes()
    for length in (1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 60, len(whole) - 1):
        model.write_bytes(whole[:length])
        sentence = refusal(model)
        assert ("is truncated" in sentence) == (length > 8), sentence


def test_bytes_after_the_weights_are_refused(model: Path) -> None:
    model.write_bytes(model.read_bytes() + b"more")
    assert "has 4 bytes after its weights" in refusal(model)


def test_a_header_that_claims_to_be_huge_is_refused_before_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes((2**60).to_bytes(8, "little") + b"{}")
    assert f"declares a header of {2**60} bytes" in refusal(tmp_path / "m")


def test_a_file_larger_than_any_model_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "m").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    assert "more than the" in refusal(tmp_path / "m")


@pytest.mark.parametrize(
    "extent",
    [
        {"dtype": "F32", "shape": [2**20, 2**20], "data_offsets": [0, 2**42]},
        {"dtype": "F32", "shape": [4], "data_offsets": [0, 2**62]},
    ],
    ids=["a terabyte", "more than its shape"],
)
def test_weights_that_claim_more_than_the_file_has_are_refused_before_memory_is_taken(
    tmp_path: Path, extent: dict[str, object]
) -> None:
    path = raw_file(tmp_path / "m", {"__metadata__": {CARD_KEY: card_json()}, "w": extent}, b"\0" * 16)
    assert "is truncated" in refusal(path) or "does not lie where it must" in refusal(path)


@pytest.mark.parametrize(
    "extents",
    [
        {
            "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
            "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
        },
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}},
        {"a": {"dtype": "F32", "shape": [3], "data_offsets": [12, 0]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}},
    ],
    ids=["overlap", "gap", "backwards", "negative"],
)
def test_weights_that_do_not_tile_the_file_are_refused(tmp_path: Path, extents: dict[str, object]) -> None:
    path = raw_file(tmp_path / "m", {"__metadata__": {CARD_KEY: card_json()}, **extents}, b"\0" * 12)
    assert "does not lie where it must" in refusal(path)


@pytest.mark.parametrize(
    "extent",
    [
        {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": "1", "data_offsets": [0, 4]},
        {"dtype": "F32", "data_offsets": [0, 4]},
        [],
    ],
)
def test_a_header_of_the_wrong_types_is_refused(tmp_path: Path, extent: object) -> None:
    path = raw_file(tmp_path / "m", {"__metadata__": {CARD_KEY: card_json()}, "w": extent}, b"\0" * 4)
    assert "has a damaged header" in refusal(path)


def test_a_header_that_is_no_json_is_refused(model: Path) -> None:
    damaged = bytearray(model.read_bytes())
    damaged[20:24] = b"\xff\xff\xff\xff"
    model.write_bytes(damaged)
    assert "has a damaged header" in refusal(model)


def test_a_deeply_nested_header_is_refused(tmp_path: Path) -> None:
    header = b'{"__metadata__":' + b"[" * 100_000
    (tmp_path / "m").write_bytes(len(header).to_bytes(8, "little") + header)
    assert "has a damaged header" in refusal(tmp_path / "m")


@pytest.mark.parametrize("depth", [30, 5000])
def test_a_deeply_nested_card_is_refused(tmp_path: Path, depth: int) -> None:
    card = card_json().removesuffix("}") + ',"metrics":{"a":' + "[" * depth + "]" * depth + "}}"
    assert "model card" in refusal(raw_file(tmp_path / "m", {"__metadata__": {CARD_KEY: card}}, b""))


def test_an_unknown_type_of_weights_is_refused(tmp_path: Path) -> None:
    extent = {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}
    path = raw_file(tmp_path / "m", {"__metadata__": {CARD_KEY: card_json()}, "w": extent}, b"\0")
    assert "w has the type F4" in refusal(path)


def test_weights_without_our_card_are_refused(tmp_path: Path) -> None:
    safetensors.torch.save_file(STATE, tmp_path / "m.safetensors", {"format": "pt"})
    assert "holds weights but no model card of herohe-bridge" in refusal(tmp_path / "m.safetensors")


def test_another_format_version_tells_which_side_to_update(tmp_path: Path) -> None:
    newer = card_json(format_version=FORMAT_VERSION + 1, a_field_of_the_future=1)
    sentence = refusal(raw_file(tmp_path / "m", {"__metadata__": {CARD_KEY: newer}}))
    assert (
        f"has format version {FORMAT_VERSION + 1}; this herohe-bridge reads 1 to {FORMAT_VERSION}" in sentence
    )
    assert "Update herohe-bridge" in sentence
    older = card_json(format_version=0)
    assert "Update the model file" in refusal(raw_file(tmp_path / "m", {"__metadata__": {CARD_KEY: older}}))


def test_a_card_of_before_says_what_was_not_recorded(tmp_path: Path) -> None:
    fields = json.loads(card_json(format_version=1))
    for name in ("knowledge", "cohort", "learned", "calibration", "calibrated_for", "call"):
        del fields[name]
    path = raw_file(tmp_path / "m", {"__metadata__": {CARD_KEY: json.dumps(fields)}})
    found, _ = read_card(path)
    assert found == card()
    assert (found.knowledge, found.learned, found.call) == ("not recorded", None, None)
    assert found.claimed_steps == found.steps


LINE = {"slope": 1.2, "intercept": -0.3, "cases": 50, "reached": 20}
RULE = {"positive_above": 0.8, "negative_below": 0.1, "positive_chosen": "", "negative_chosen": ""}


def test_only_what_was_learned_and_calibrated_is_claimed(tmp_path: Path) -> None:
    fields = card_json(learned=["3+", ">=2+"], calibration={">=2+": LINE}, call=RULE)
    found, _ = read_card(raw_file(tmp_path / "m", {"__metadata__": {CARD_KEY: fields}}))
    assert found.claimed_steps == (">=2+",)
    assert found.call is not None
    assert found.call.call(0.9, 0.95) == "likely positive"


@pytest.mark.parametrize(
    "changes",
    [
        {"head": "both"},
        {"knowledge": "guessed"},
        {"learned": [">=5+"]},
        {"calibration": {">=5+": LINE}},
        {"calibration": {">=2+": {**LINE, "slope": -1.0}}},
        {"call": RULE},
        {"calibration": {">=2+": LINE}, "call": {**RULE, "negative_below": 0.9}},
        {"target": "ish"},
        {"patch_px": "512"},
        {"patch_px": 512.5},
        {"patch_px": 10**9},
        {"grid": 0},
        {"mpp": 0},
        {"mpp": None},
        {"backbone": "hf-hub:someone/something"},
        {"name": ""},
        {"mean": [0.5, 0.5]},
        {"positive_step": ">=4+"},
        {"decision_threshold": 1.5},
        {"members": 10**6},
        {"a_field_of_nobody": 1},
        {"format_version": "1"},
    ],
    ids=lambda changes: "-".join(str(part) for item in changes.items() for part in item),
)
def test_a_card_of_wrong_types_or_values_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    path = raw_file(tmp_path / "m", {"__metadata__": {CARD_KEY: card_json(**changes)}})
    assert "the model card" in refusal(path)


def test_a_card_that_lacks_a_field_is_refused(tmp_path: Path) -> None:
    fields = json.loads(card_json())
    del fields["mpp"]
    path = raw_file(tmp_path / "m", {"__metadata__": {CARD_KEY: json.dumps(fields)}})
    assert "the model card is not valid: Object missing required field `mpp`" in refusal(path)


def test_weights_that_are_no_numbers_are_refused_on_loading(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    weights = {"head.bias": torch.tensor([0.0, float("nan"), 0.0])}
    safetensors.torch.save_file(weights, path, {CARD_KEY: card_json()})
    with pytest.raises(ModelFileError, match=r"m\.safetensors: head\.bias holds numbers that are not finite"):
        load_model(path)


def test_members_are_told_apart_by_their_prefix() -> None:
    other = {key: tensor + 1 for key, tensor in STATE.items()}
    joined = join_members([STATE, other])
    assert sorted(joined) == sorted([f"member{k}.{key}" for k in (0, 1) for key in STATE])
    first, second = member_states(card(members=2), joined)
    assert torch.equal(first["head.bias"], STATE["head.bias"])
    assert torch.equal(second["head.bias"], other["head.bias"])


def test_ten_members_are_not_taken_for_the_first() -> None:
    joined = join_members([{"w": torch.tensor(float(k))} for k in range(11)])
    states = member_states(card(members=11), joined)
    assert [float(state["w"]) for state in states] == list(range(11))


def test_a_single_network_has_no_prefix() -> None:
    assert join_members([STATE]).keys() == STATE.keys()
    assert member_states(card(), STATE)[0].keys() == STATE.keys()


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
            return open, (str(tmp_path / "ran"), "w")

    buffer = io.BytesIO()
    torch.save(Touch(), buffer)
    (tmp_path / "m").write_bytes(buffer.getvalue())
    refusal(tmp_path / "m")
    assert not (tmp_path / "ran").exists()
