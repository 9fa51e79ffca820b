"""Files of features looked at as a set."""

from __future__ import annotations

from pathlib import Path

from helpers.feature_files import bag, write_clam, write_stamp, write_trident

from herohe_model.features.check import check_features, describe, misfits


def test_each_file_is_told_and_a_bad_one_stops_nothing(tmp_path: Path) -> None:
    write_trident(tmp_path / "a.h5", *bag())
    (tmp_path / "b.h5").write_bytes(b"no")
    write_stamp(tmp_path / "c.h5", *bag())
    a, b, c = check_features(tmp_path)
    assert a.facts is not None and c.facts is not None
    assert describe(a.facts) == (
        "trident, uni_v1, 6 patches of 4 numbers, 128 µm (256 px), coordinates in px"
    )
    assert describe(c.facts).endswith("128 µm (256 px), coordinates in µm")
    assert b.facts is None and "b.h5 is damaged, or no HDF5 file" in b.problem


def facts(folder: Path) -> list[str]:
    return misfits([file.facts for file in check_features(folder) if file.facts is not None])


def test_files_that_go_together_are_not_complained_of(tmp_path: Path) -> None:
    write_trident(tmp_path / "a.h5", *bag())
    write_trident(tmp_path / "b.h5", *bag(9, seed=1))
    write_trident(tmp_path / "empty.h5", *bag(0))
    assert facts(tmp_path) == []


def test_what_does_not_go_together_is_counted(tmp_path: Path) -> None:
    write_trident(tmp_path / "a.h5", *bag())
    write_trident(tmp_path / "b.h5", *bag())
    write_trident(tmp_path / "c.h5", *bag(dimension=8), encoder="virchow")
    write_clam(tmp_path / "d.h5", *bag())
    encoders, lengths, sizes = facts(tmp_path)
    assert (
        encoders
        == "The files come from several encoders: 2 of uni_v1, 1 of virchow, 1 of one that is not named."
    )
    assert lengths == "The files have features of several lengths: 3 of 4 numbers, 1 of 8 numbers."
    assert sizes == "The files show patches of several sizes: 3 of 128 µm (256 px), 1 of size not said."
