"""Files of features in a folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.feature_files import bag, write_trident

from herohe_model.features.find import find_features
from herohe_model.features.schema import FeatureFileError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_a_folder_of_trident_gives_its_features_and_not_its_coordinates(tmp_path: Path) -> None:
    job = tmp_path / "20x_256px_0px_overlap"
    touch(job, "patches/a_patches.h5", "features_uni_v1/b.h5", "slide_features_titan/a.h5", "contours/a.jpg")
    write_trident(job / "features_uni_v1" / "a.h5", *bag())
    assert list(find_features(tmp_path)) == ["a", "b"]
    assert find_features(tmp_path)["a"] == job / "features_uni_v1" / "a.h5"


def test_a_folder_of_clam_gives_hdf5_where_there_is_any(tmp_path: Path) -> None:
    touch(tmp_path, "h5_files/a.h5", "pt_files/a.pt")
    assert find_features(tmp_path) == {"a": tmp_path / "h5_files" / "a.h5"}
    assert find_features(tmp_path / "pt_files") == {"a": tmp_path / "pt_files" / "a.pt"}


def test_a_dot_in_a_slides_name_stays(tmp_path: Path) -> None:
    touch(tmp_path, "TCGA-A1-01Z-00-DX1.0F3C.h5", ".hidden.h5", "c.h5.part", "notes.txt")
    assert list(find_features(tmp_path)) == ["TCGA-A1-01Z-00-DX1.0F3C"]


def test_features_of_several_encoders_are_not_mixed(tmp_path: Path) -> None:
    touch(tmp_path, "features_uni/a.h5", "features_virchow/a.h5")
    with pytest.raises(FeatureFileError, match=r"several files of a: .*uni.*virchow.*one encoder"):
        find_features(tmp_path)


def test_a_folder_without_features_is_said(tmp_path: Path) -> None:
    touch(tmp_path, "a.svs")
    with pytest.raises(FeatureFileError, match="holds no features"):
        find_features(tmp_path)
    with pytest.raises(FeatureFileError, match="There is no folder"):
        find_features(tmp_path / "none")
