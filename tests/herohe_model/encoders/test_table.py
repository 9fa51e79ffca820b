"""The table of encoders, and users' own."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from helpers.small_encoders import names, small, write_table

from herohe_model.encoders.network import check_network
from herohe_model.encoders.table import (
    Encoder,
    TimmConfig,
    completed,
    find_encoder,
    known_encoders,
    read_config,
)
from herohe_model.errors import HeroheError, ModelFileError, OptionError

FORM = """{"format": 1, "encoders": [{"name": "mine", "architecture": "vit_tiny_patch16_224", "arguments":
{"img_size": 32}, "input_px": 32, "mpp": 0.5, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5],
"pool": "token", "dimension": 192}]}"""


@pytest.mark.parametrize("name", names())
def test_every_row_is_an_encoder_that_timm_builds_with_the_numbers_it_says(name: str) -> None:
    row = find_encoder(name)
    config = TimmConfig(
        architecture={"tcga-brca-dino": "vit_small_patch16_224"}.get(name, "vit_base_patch14_reg4_dinov2"),
        model_args={"img_size": row.input_px, "checkpoint_path": "/x"},
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    whole = completed(row, config if row.mean is None else None)
    check_network(whole)
    assert {"licence", "input", "build", "normalisation", "dimension"} <= row.facts_from.keys()
    assert row.licence and row.source and "checkpoint_path" not in whole.arguments


def test_an_encoder_is_found_by_what_other_tools_call_it() -> None:
    assert find_encoder("uni").name == find_encoder("MahmoodLab/uni").name == "uni_v1"
    with pytest.raises(OptionError, match=r"No encoder 'none'.*uni_v1"):
        find_encoder("none")


def test_no_name_means_two_encoders() -> None:
    said = [name for e in known_encoders().values() for name in (e.name, *e.aliases)]
    assert len(said) == len(set(said))


def test_a_users_row_comes_first_and_takes_the_place_of_ours(tmp_path: Path) -> None:
    table = tmp_path / "mine.json"
    table.write_text(FORM, encoding="utf-8")
    check_network(find_encoder("mine", table))
    assert next(iter(known_encoders(table))) == "mine"
    other = write_table(tmp_path / "other.json", small("uni_v1"))
    assert find_encoder("uni_v1", other).input_px == 32


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"arguments": {"checkpoint_path": "/etc/passwd"}}, "no argument that a table may set"),
        ({"arguments": {"pretrained_cfg": "x"}}, "no argument that a table may set"),
        ({"architecture": "hf-hub:somebody/model"}, "architecture"),
        ({"source": "https://example.org/x"}, "source"),
        ({"std": [0.0, 0.5, 0.5]}, "std is"),
        ({"mean": None}, "go together"),
        ({"dimension": 0}, "dimension"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_row_that_cannot_be_meant_is_refused_by_name(
    tmp_path: Path, change: dict[str, object], why: str
) -> None:
    row = {**msgspec.json.decode(FORM)["encoders"][0], **change}
    (tmp_path / "mine.json").write_bytes(msgspec.json.encode({"format": 1, "encoders": [row]}))
    with pytest.raises(OptionError, match=rf"mine\.json is no table.*{why}"):
        known_encoders(tmp_path / "mine.json")


def test_a_row_that_timm_builds_otherwise_is_refused() -> None:
    with pytest.raises(OptionError, match=r"gives features of the shape \(1, 48\), and its row says"):
        check_network(msgspec.structs.replace(small(), dimension=64))
    with pytest.raises(OptionError, match="does not take patches of 50 px"):
        check_network(msgspec.structs.replace(small("hoptimus0"), arguments={}, input_px=50))
    with pytest.raises(OptionError, match="may not name the layer 'Linear'"):
        check_network(msgspec.structs.replace(small(), arguments={"mlp_layer": "Linear"}))


def row(**change: object) -> Encoder:
    return msgspec.structs.replace(small(), **change)


def test_what_a_row_leaves_out_stands_beside_the_weights(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(
        '{"architecture": "vit_tiny_patch16_224", "model_args": {"img_size": 64, "num_classes": 7},'
        '"pretrained_cfg": {"mean": [0.7, 0.6, 0.7], "std": [0.1, 0.1, 0.1], "url": "https://x"}}',
        encoding="utf-8",
    )
    open_row = row(architecture="", arguments={"img_size": 32}, mean=None, std=None)
    whole = completed(open_row, read_config(config))
    assert (whole.architecture, whole.arguments) == ("vit_tiny_patch16_224", {"img_size": 32})
    assert (whole.mean, whole.std) == ((0.7, 0.6, 0.7), (0.1, 0.1, 0.1))
    with pytest.raises(ModelFileError, match=r"architecture and normalisation of kaiko-vits16.*not there"):
        completed(open_row, None)


def test_another_normalisation_beside_the_weights_than_in_the_table_is_refused_by_name() -> None:
    config = TimmConfig(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    with pytest.raises(ModelFileError, match=r"weights of kaiko-vits16 normalises by mean \(0\.485"):
        completed(small(), config)


@pytest.mark.parametrize("text", ["", "[]", '{"architecture": 3}', '{"mean": ["a", 1, 2]}', "{" * 5000])
def test_a_config_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(HeroheError, match=r"config\.json"):
        read_config(tmp_path / "config.json")
