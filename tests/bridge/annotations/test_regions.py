from __future__ import annotations

from dataclasses import replace

import pytest
from shapely import wkt
from shapely.geometry import LineString, Point, Polygon, box

from bridge.annotations.regions import Annotation, SlideRegions, build_regions, distinct_ids
from herohe_model.errors import RegionError
from herohe_model.slides.source import Box

SLIDE = Box(0, 0, 1000, 800)


def an(id: str, class_name: str, geometry: object, name: str = "") -> Annotation:
    return Annotation(id=id, name=name, class_name=class_name, geometry=geometry)


def regions(
    *annotations: Annotation, wanted: tuple[str, ...] = ("Tumor",), exclude: tuple[str, ...] = ()
) -> SlideRegions:
    return build_regions(annotations, region_classes=wanted, exclude_classes=exclude, slide_box=SLIDE)


def test_without_a_class_the_whole_scanned_area_is_the_region() -> None:
    found = regions(an("1", "Tumor", box(0, 0, 10, 10)), wanted=())
    assert found.union is not None
    assert found.union.geometry.bounds == (0, 0, 1000, 800)
    assert found.union.annotations == ()
    assert found.annotations == ()


def test_annotations_of_the_class_and_of_classes_derived_from_it_are_chosen() -> None:
    found = regions(
        an("1", "Tumor", box(0, 0, 10, 10)),
        an("2", "Stroma", box(0, 0, 99, 99)),
        an("3", "Tumor: Invasive: HER2-HE 2+", box(20, 0, 30, 10)),
        an("4", "Tumor*", box(0, 0, 99, 99)),
        an("5", "Tumor: Doubtful*", box(0, 0, 99, 99)),
    )
    assert [r.id for r in found.annotations] == ["1", "3"]
    assert [r.class_name for r in found.annotations] == ["Tumor", "Tumor: Invasive"]
    assert found.union is not None
    assert found.union.annotations == ("1", "3")
    assert found.union.class_name == "Tumor, Tumor: Invasive"
    assert found.union.geometry.area == 200


def test_a_class_with_a_star_is_chosen_when_it_is_named() -> None:
    found = regions(an("1", "Ignore*", box(0, 0, 10, 10)), wanted=("Ignore*",))
    assert [r.id for r in found.annotations] == ["1"]


def test_everything_means_every_area_that_is_not_cut_out() -> None:
    found = build_regions(
        [
            an("1", "", box(0, 0, 10, 10)),
            an("2", "Ignore*", box(20, 0, 30, 10)),
            an("3", "Dirt", box(0, 0, 5, 5)),
        ],
        region_classes=(),
        exclude_classes=("Dirt",),
        slide_box=SLIDE,
        everything=True,
    )
    assert [r.id for r in found.annotations] == ["1", "2"]


def test_overlapping_annotations_are_united_and_kept_one_by_one() -> None:
    found = regions(an("1", "Tumor", box(0, 0, 10, 10)), an("2", "Tumor", box(5, 0, 15, 10)))
    assert found.union is not None
    assert found.union.geometry.area == 150
    assert [r.geometry.area for r in found.annotations] == [100, 100]


def test_excluded_classes_are_cut_out_of_union_annotations_and_whole_slide() -> None:
    tumour, necrosis = an("1", "Tumor", box(200, 100, 300, 200)), an("2", "Necrosis", box(250, 100, 400, 200))
    found = regions(tumour, necrosis, exclude=("Necrosis",))
    assert found.union is not None
    assert found.union.geometry.equals(box(200, 100, 250, 200))
    assert found.annotations[0].geometry.equals(box(200, 100, 250, 200))
    whole = regions(tumour, necrosis, wanted=(), exclude=("Necrosis",)).union
    assert whole is not None
    assert whole.geometry.area == 1000 * 800 - 150 * 100


def test_exclusion_wins_over_choice() -> None:
    found = regions(
        an("1", "Tumor", box(0, 0, 10, 10)),
        an("2", "Tumor: Necrotic", box(0, 0, 5, 10)),
        exclude=("Tumor: Necrotic",),
    )
    assert [r.id for r in found.annotations] == ["1"]
    assert found.annotations[0].geometry.area == 50


def test_what_is_wholly_cut_out_stays_as_an_empty_region() -> None:
    found = regions(
        an("1", "Tumor", box(0, 0, 10, 10)), an("2", "Dirt", box(0, 0, 10, 10)), exclude=("Dirt",)
    )
    assert found.union is not None
    assert found.union.geometry.is_empty
    assert found.annotations[0].geometry.is_empty


def test_areas_that_touch_leave_no_line_behind() -> None:
    found = regions(
        an("1", "Tumor", Polygon([(0, 0), (10, 0), (10, 10), (0, 10)])),
        an("2", "Dirt", wkt.loads("POLYGON ((0 0, 10 0, 10 5, 4 5, 4 10, 0 10, 0 0))")),
        exclude=("Dirt",),
    )
    assert found.annotations[0].geometry.geom_type == "Polygon"
    assert found.annotations[0].geometry.area == 30


def test_lines_points_and_nothing_are_left_out_by_name() -> None:
    found = regions(
        an("1", "Tumor", LineString([(0, 0), (5, 5)]), "a line"),
        an("2", "Tumor", Point(3, 3)),
        an("3", "Tumor", Polygon(), "nothing"),
        an("4", "Stroma", Point(1, 1), "not asked for"),
        an("5", "Tumor", box(0, 0, 10, 10)),
    )
    assert [r.id for r in found.annotations] == ["5"]
    assert found.warnings == (
        "Annotation 'a line' (Tumor) is a LineString without an area; it was left out",
        "Annotation 2 (Tumor) is a Point without an area; it was left out",
        "Annotation 'nothing' (Tumor) is empty; it was left out",
    )


def test_an_outline_that_crosses_itself_is_repaired_with_a_warning() -> None:
    bow_tie = Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])
    found = regions(an("1", "Tumor", bow_tie, "bow tie"))
    assert found.annotations[0].geometry.is_valid
    assert found.annotations[0].geometry.area == pytest.approx(50)
    assert found.warnings == (
        "Annotation 'bow tie' (Tumor) crosses itself; the area inside its outline was used",
    )


def test_holes_and_separate_parts_are_kept() -> None:
    ring = box(0, 0, 10, 10).difference(box(2, 2, 4, 4))
    parts = wkt.loads("MULTIPOLYGON (((20 0, 22 0, 22 2, 20 2, 20 0)), ((30 0, 31 0, 31 1, 30 1, 30 0)))")
    found = regions(an("1", "Tumor", ring), an("2", "Tumor", parts))
    assert [r.geometry.area for r in found.annotations] == [96, 5]
    assert found.warnings == ()


def test_when_nothing_matches_the_message_names_what_is_there() -> None:
    found = regions(
        an("1", "Stroma", box(0, 0, 1, 1)),
        an("2", "Stroma: HER2-HE 1+", box(0, 0, 1, 1)),
        an("3", "", box(0, 0, 1, 1)),
        wanted=("Tumor", "DCIS"),
    )
    assert found.union is None
    message = found.no_match_message()
    assert "Tumor or DCIS" in message
    assert "unclassified (1), Stroma (2)" in message
    assert "no annotations" in regions().no_match_message()


def test_the_digest_ignores_the_grade_that_an_earlier_run_derived() -> None:
    before = an("1", "Tumor", box(0, 0, 10, 10))
    after = replace(before, class_name="Tumor: HER2-HE 2+")
    assert regions(before).digest() == regions(after).digest()


def test_the_digest_changes_with_what_was_drawn() -> None:
    first = an("1", "Tumor", box(0, 0, 10, 10))
    others = [
        replace(first, id="2"),
        replace(first, name="renamed"),
        replace(first, class_name="Tumor: Invasive"),
        replace(first, geometry=box(0, 0, 10, 10.01)),
    ]
    dirt = an("9", "Dirt", box(50, 50, 60, 60))
    digests = [
        regions(first).digest(),
        *(regions(other).digest() for other in others),
        regions(first, dirt, exclude=("Dirt",)).digest(),
        regions(dirt).digest(),
    ]
    assert len(set(digests)) == len(digests)


def test_the_digest_does_not_depend_on_order_or_starting_point() -> None:
    one, two = an("1", "Tumor", box(0, 0, 10, 10)), an("2", "Tumor", box(20, 0, 30, 10))
    turned = replace(two, geometry=Polygon([(30, 10), (20, 10), (20, 0), (30, 0)]))
    assert regions(one, two).digest() == regions(turned, one).digest()


def test_what_was_not_asked_for_does_not_change_the_digest() -> None:
    one = an("1", "Tumor", box(0, 0, 10, 10))
    assert regions(one).digest() == regions(one, an("2", "Stroma", box(0, 0, 5, 5))).digest()


def test_annotations_outside_of_the_slide_are_named_and_never_widen_the_region() -> None:
    inside, beside = an("1", "Tumor", box(0, 0, 10, 10)), an("2", "Tumor", box(5000, 900, 5010, 910), "far")
    found = regions(inside, beside)
    assert found.warnings == (
        "Annotation 'far' (Tumor) lies outside of the slide, which has 1000 x 800 px from (0, 0)",
    )
    with pytest.raises(RegionError, match=r"to sample in lie outside .* at \(5000, 900\)\. .*MIRAX"):
        regions(beside)
    with pytest.raises(RegionError, match="to cut out lie outside"):
        regions(replace(beside, class_name="Necrosis"), wanted=(), exclude=("Necrosis",))


def test_a_class_is_the_same_however_its_letters_are_composed() -> None:
    composed, split = "L\u00e4sion", "La\u0308sion"
    drawn = an("1", split, box(0, 0, 10, 10)), an("2", f"{composed}: Rand", box(20, 0, 30, 10))
    for asked in (composed, split):
        assert [region.id for region in regions(*drawn, wanted=(asked,)).annotations] == ["1", "2"]
    ignored = an("1", f"{split}*", box(0, 0, 10, 10))
    assert regions(ignored, wanted=(f"{composed}*",)).union is not None
    both = regions(an("1", split, box(0, 0, 9, 9)), an("2", composed, box(0, 0, 9, 9)), wanted=("x",))
    assert both.classes_present == ((composed, 2),)


def test_annotations_of_one_identifier_are_told_apart_alike_every_time() -> None:
    given = ["a", "b", "a", "a", "b"]
    found = distinct_ids(given)
    assert found == distinct_ids(given)
    assert (found[0], found[1]) == ("a", "b")
    assert len(set(found)) == 5
    assert distinct_ids(["a", "b"]) == ["a", "b"]
    assert distinct_ids(["a", found[2], "a"])[:2] == ["a", found[2]]
    assert len(set(distinct_ids(["a", found[2], "a"]))) == 3
