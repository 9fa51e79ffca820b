"""Features that other tools left, read where they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from helpers.feature_files import SLIDE_MPP, bag, write_clam, write_stamp, write_trident

from herohe_model.features.read import read_facts, read_features
from herohe_model.features.schema import FeatureFileError, SlideFeatures, facts_of


def same_bag(found: SlideFeatures, count: int = 6) -> None:
    features, corners = bag(count)
    assert found.features.dtype == np.float32 and found.features.tolist() == features.tolist()
    assert found.coords is not None and found.coords.dtype == np.int64
    assert found.coords.tolist() == corners.tolist()


def test_features_of_trident_come_with_what_it_says_of_them(tmp_path: Path) -> None:
    found = read_features(write_trident(tmp_path / "a.h5", *bag()))
    same_bag(found)
    assert (found.name, found.layout, found.encoder) == ("a", "trident", "uni_v1")
    assert (found.count, found.dimension) == (6, 4)
    assert (found.patch_px, found.patch_size_level0, found.mpp, found.slide_mpp) == (256, 512, 0.5, 0.25)
    assert found.patch_um == 128.0


@pytest.mark.parametrize("shape", [(0,), (0, 4)])
def test_a_slide_without_tissue_has_no_patches(tmp_path: Path, shape: tuple[int, ...]) -> None:
    empty = np.empty(shape, np.float32)
    found = read_features(write_trident(tmp_path / "a.h5", empty, np.empty((0, 2), np.int64)))
    assert found.features.shape == (0, shape[-1]) and found.count == 0
    assert found.coords is not None and found.coords.shape == (0, 2)


@pytest.mark.parametrize(("convention", "patch_px", "patch_um"), [("2.1", 256, 128.0), ("2.0", None, 128.0)])
def test_micrometres_of_stamp_become_pixels_of_the_slide(
    tmp_path: Path, convention: str, patch_px: int | None, patch_um: float
) -> None:
    path = write_stamp(tmp_path / "a.h5", *bag(), convention=convention)
    found = read_features(path, slide_mpp=SLIDE_MPP)
    same_bag(found)
    assert (found.layout, found.encoder, found.patch_px) == ("stamp", "uni", patch_px)
    assert (found.patch_um, found.patch_size_level0, found.coordinates) == (patch_um, 512, "um")


def test_of_an_unknown_scale_stamp_leaves_micrometres(tmp_path: Path) -> None:
    found = read_features(write_stamp(tmp_path / "a.h5", *bag()))
    assert found.coords is None and found.coords_um is not None
    assert found.coords_um.tolist() == (bag()[1] * SLIDE_MPP).tolist()


def test_historic_stamp_counts_256_um_as_224_pixels(tmp_path: Path) -> None:
    path = write_stamp(tmp_path / "a.h5", *bag(side=1024), convention="historic")
    found = read_features(path, slide_mpp=SLIDE_MPP)
    assert found.coords is not None and found.coords.tolist() == bag(side=1024)[1].tolist()
    assert (found.patch_um, found.patch_px, found.patch_size_level0) == (256.0, 224, 1024)


def test_coordinates_in_no_unit_that_stamp_ever_had_are_refused(tmp_path: Path) -> None:
    path = write_stamp(tmp_path / "a.h5", *bag(side=300), convention="historic")
    with pytest.raises(FeatureFileError, match=r"a\.h5 does not say in what its coordinates are"):
        read_features(path)


@pytest.mark.parametrize(
    ("attributes", "level0"),
    [
        ({}, None),
        ({"patch_size": 256, "patch_level": 0}, 256),
        ({"patch_size": 256, "patch_level": 0, "custom_downsample": 2}, 512),
        ({"patch_size": 256, "patch_level": 1, "downsample": (4.0, 4.0)}, 1024),
        ({"patch_size": 256, "patch_level": 1}, None),
    ],
)
def test_features_of_clam_have_a_size_where_their_coordinates_say_one(
    tmp_path: Path, attributes: dict[str, object], level0: int | None
) -> None:
    found = read_features(write_clam(tmp_path / "a.h5", *bag(), **attributes))
    same_bag(found)
    assert (found.layout, found.encoder, found.patch_size_level0) == ("clam", None, level0)


def test_a_leading_dimension_of_one_is_left_out(tmp_path: Path) -> None:
    features, corners = bag()
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["features"], file["coords"] = features[None], corners[None]
    same_bag(read_features(tmp_path / "a.h5"))


def test_a_tensor_of_clam_has_no_coordinates(tmp_path: Path) -> None:
    features, _ = bag()
    torch.save(torch.from_numpy(features), tmp_path / "a.pt")
    found = read_features(tmp_path / "a.pt")
    assert found.features.tolist() == features.tolist()
    assert (found.layout, found.coords, found.coordinates) == ("pt", None, None)


@pytest.mark.parametrize("layout", ["trident", "stamp", "clam", "pt"])
def test_what_a_file_says_needs_no_reading_of_its_features(tmp_path: Path, layout: str) -> None:
    writers = {"trident": write_trident, "stamp": write_stamp, "clam": write_clam}
    path = tmp_path / ("a.pt" if layout == "pt" else "a.h5")
    if layout == "pt":
        torch.save(torch.from_numpy(bag()[0]), path)
    else:
        writers[layout](path, *bag())
    assert read_facts(path) == facts_of(read_features(path))


class Bomb:
    """Whoever unpickles it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.mkdir, (self.path,)


def test_nothing_in_a_pickle_is_executed(tmp_path: Path) -> None:
    torch.save(Bomb(tmp_path / "made"), tmp_path / "a.pt")
    with pytest.raises(FeatureFileError, match=r"a\.pt holds more than tensors"):
        read_features(tmp_path / "a.pt")
    assert not (tmp_path / "made").exists()


def test_a_tensor_that_claims_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    torch.save(torch.ones(1).expand(3_000_000, 4096), tmp_path / "a.pt")
    with pytest.raises(FeatureFileError, match=r"a\.pt holds a tensor of the shape"):
        read_features(tmp_path / "a.pt")


def claims_much(file: h5py.File, _: Path) -> None:
    file.create_dataset("features", shape=(1_000_000, 1024), dtype="f4", chunks=(1, 1024))


def claims_more(file: h5py.File, _: Path) -> None:
    file.create_dataset("features", shape=(3_000_000, 4096), dtype="f4", chunks=(1, 4096))


def lies_in_another_file(file: h5py.File, folder: Path) -> None:
    (folder / "secret").write_bytes(bytes(400))
    file.create_dataset("features", shape=(10, 10), dtype="f4", external=str(folder / "secret"))


def is_a_link(file: h5py.File, folder: Path) -> None:
    with h5py.File(folder / "other.h5", "w") as other:
        other["features"] = np.zeros((10, 10), np.float32)
    file["features"] = h5py.ExternalLink(str(folder / "other.h5"), "features")


def is_put_together(file: h5py.File, folder: Path) -> None:
    with h5py.File(folder / "other.h5", "w") as other:
        other["x"] = np.zeros((10, 10), np.float32)
    layout = h5py.VirtualLayout((10, 10), "f4")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "x", (10, 10))
    file.create_virtual_dataset("features", layout)


def has_one_huge_block(file: h5py.File, _: Path) -> None:
    file.create_dataset(
        "features", data=np.ones((8, 4), np.float32), maxshape=(None, 4), chunks=(1 << 25, 4), compression=9
    )


def is_text(file: h5py.File, _: Path) -> None:
    file["features"] = np.array([[b"a", b"b"]])


def is_of_a_slide(file: h5py.File, _: Path) -> None:
    file["features"] = np.ones(768, np.float32)


def is_of_a_patient(file: h5py.File, _: Path) -> None:
    file["feats"] = np.ones((1, 768), np.float32)
    file.attrs["feat_type"] = "patient"


def has_coordinates_alone(file: h5py.File, _: Path) -> None:
    file["coords"] = np.ones((3, 2), np.int64)


def is_not_finite(file: h5py.File, _: Path) -> None:
    file["features"] = np.array([[1.0, np.nan]], np.float32)


def lacks_a_coordinate(file: h5py.File, _: Path) -> None:
    file["features"], file["coords"] = np.ones((3, 4), np.float32), np.ones((2, 2), np.int64)


def lies_nowhere(file: h5py.File, _: Path) -> None:
    file["features"], file["coords"] = np.ones((1, 4), np.float32), np.array([[1.0, np.inf]])


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (claims_much, "which the file does not hold"),
        (claims_more, "more than a slide can have"),
        (lies_in_another_file, "no array of this file"),
        (is_a_link, "no array of this file"),
        (is_put_together, "no array of this file"),
        (has_one_huge_block, "blocks larger than itself"),
        (is_text, "no plain numbers"),
        (is_of_a_slide, r"instead of \(patches"),
        (is_of_a_patient, "features of a patient"),
        (has_coordinates_alone, r"no features of patches \(but coords\)"),
        (is_not_finite, "not finite"),
        (lacks_a_coordinate, "3 features, but coordinates of 2 patches"),
        (lies_nowhere, "on no slide"),
    ],
)
def test_a_hostile_or_foreign_file_is_refused_by_name(
    tmp_path: Path, make: Callable[[h5py.File, Path], None], why: str
) -> None:
    with h5py.File(tmp_path / "bad.h5", "w") as file:
        make(file, tmp_path)
    with pytest.raises(FeatureFileError, match=rf"bad\.h5.*{why}") as refused:
        read_features(tmp_path / "bad.h5")
    assert refused.value.remedy


def test_a_damaged_file_is_refused_or_read_and_nothing_else(tmp_path: Path) -> None:
    whole = write_trident(tmp_path / "a.h5", *bag(40, 16)).read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        damaged = bytearray(whole[: random.integers(1, len(whole))] if random.random() < 0.3 else whole)
        for at in random.integers(0, len(damaged), 8):
            damaged[at] = random.integers(256)
        (tmp_path / "a.h5").write_bytes(damaged)
        try:
            read_features(tmp_path / "a.h5")
        except FeatureFileError as error:
            assert "a.h5" in error.problem
            refused += 1
    assert refused > 50


def test_what_is_no_file_of_features_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_text("text", encoding="utf-8")
    for path, why in (
        (tmp_path / "a.h5", "no HDF5"),
        (tmp_path / "b.h5", "No such"),
        (tmp_path, "not a file"),
    ):
        with pytest.raises(FeatureFileError, match=why):
            read_features(path)
