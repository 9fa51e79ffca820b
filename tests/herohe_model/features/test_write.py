"""Files of features as TRIDENT writes them."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers.feature_files import bag, write_trident

from herohe_model.features.read import read_facts, read_features
from herohe_model.features.schema import FeatureFileError
from herohe_model.features.write import PlacedPatches, writing_features
from herohe_model.files import WriteError


def write(path: Path, count: int = 6, *, piece: int = 4, slide_mpp: float = 0.25, mpp: float = 0.5) -> Path:
    features, corners = bag(count)
    placed = PlacedPatches(corners.astype(np.int64), 512, 256, mpp, (20_000, 10_000), slide_mpp)
    with writing_features(
        path, placed, name=path.stem, encoder="uni_v1", dimension=4, provenance={"mpp": mpp, "work": "w"}
    ) as writer:
        for first in range(0, count, piece):
            writer.append(features[first : first + piece].astype(np.float32))
    return path


def attributes(path: Path, name: str) -> dict[str, object]:
    with h5py.File(path) as file:
        return {key: value for key, value in file[name].attrs.items() if key != "savetodir"}


def test_a_file_says_what_tridents_own_says_in_the_same_words(tmp_path: Path) -> None:
    ours, theirs = (
        write(tmp_path / "a.h5"),
        write_trident(tmp_path / "b" if False else tmp_path / "t.h5", *bag()),
    )
    for name in ("features", "coords"):
        said, expected = attributes(ours, name), attributes(theirs, name)
        assert said.pop("name") == "a" and expected.pop("name") == "t"
        assert said == expected
        with h5py.File(ours) as one, h5py.File(theirs) as other:
            assert (one[name].shape, one[name].dtype) == (other[name].shape, other[name].dtype)
            assert one[name].maxshape == other[name].maxshape
            assert one[name][:].tolist() == other[name][:].tolist()


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    found = read_features(write(tmp_path / "a.h5"))
    features, corners = bag()
    assert found.features.tolist() == features.tolist()
    assert found.coords is not None and found.coords.tolist() == corners.tolist()
    assert (found.layout, found.encoder, found.mpp, found.patch_px) == ("trident", "uni_v1", 0.5, 256)
    assert found.provenance["work"] == "w"


@pytest.mark.parametrize(
    ("slide_mpp", "mpp", "scan", "target"),
    [(0.2425, 0.5, 40, 20), (0.5, 0.5, 20, 20), (1.0, 1.0, 10, 10), (0.25, 0.2425, 40, 10 / 0.2425)],
)
def test_magnifications_are_those_that_trident_would_say(
    tmp_path: Path, slide_mpp: float, mpp: float, scan: float, target: float
) -> None:
    path = write(tmp_path / "a.h5", slide_mpp=slide_mpp, mpp=mpp)
    said = attributes(path, "coords")
    assert (said["level0_magnification"], said["target_magnification"]) == (scan, pytest.approx(target))
    assert read_facts(path).mpp == mpp


def test_the_same_features_give_the_same_bytes_in_whatever_pieces(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    one, other = write(tmp_path / "a.h5", 40), write(tmp_path / "b" / "a.h5", 40, piece=7)
    assert one.read_bytes() == other.read_bytes()


def test_a_slide_without_patches_has_a_file_that_says_so(tmp_path: Path) -> None:
    found = read_features(write(tmp_path / "a.h5", 0))
    assert (found.count, found.dimension, found.features.shape) == (0, 4, (0, 4))


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    before = write(tmp_path / "a.h5").read_bytes()
    placed = PlacedPatches(np.zeros((3, 2), np.int64), 512, 256, 0.5, (100, 100), 0.25)
    for rows, why in ((np.ones((2, 4)), "2 features for 3 patches"), (np.full((1, 4), np.nan), "no finite")):
        with (
            pytest.raises(FeatureFileError, match=why),
            writing_features(
                tmp_path / "a.h5", placed, name="a", encoder="e", dimension=4, provenance={}
            ) as writer,
        ):
            writer.append(rows.astype(np.float32))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a.h5": before}


def test_a_folder_that_takes_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match=r"file.*cannot be written"):
        write(tmp_path / "file" / "a.h5")
