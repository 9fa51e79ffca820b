from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from openpyxl import Workbook

from herohe_model.dataset.cases import (
    Case,
    case_id,
    grade_numbers,
    level_of,
    target_arrays,
    target_bits,
)
from herohe_model.dataset.labels import LabelError, read_label_files, read_labels
from herohe_model.dataset.matching import match_slides
from herohe_model.dataset.tables import TableError
from herohe_model.grades import GRADES, Target, bits_of_level

FOUR, THREE = Target.IHC_ISH, Target.IHC
HEADER_2020 = "Case;Immunohistochemistry ;ISH  Group; Final Result (Ground truth);Age;Sex;Laboratory"


def written(path: Path, *lines: str, end: str = "\n", encoding: str = "utf-8") -> Path:
    path.write_bytes(end.join((*lines, "")).encode(encoding))
    return path


def known(case: Case, target: Target) -> str:
    """The bits as a word, with ? for what is not known."""
    bits, sure = target_bits(case, target)
    return "".join(str(bit) if s else "?" for bit, s in zip(bits, sure, strict=True))


def refusal(path: Path) -> str:
    with pytest.raises(LabelError) as caught:
        read_labels(path)
    return str(caught.value)


# The organisers' files.


def test_the_label_file_of_2019_is_read(tmp_path: Path) -> None:
    path = written(
        tmp_path / "labels.csv",
        "Case;HER2 Status",
        "1;Negative",
        "2;Positive",
        end="\r\n",
        encoding="utf-8-sig",
    )
    labels = read_labels(path)
    assert labels.cases == (
        Case("train", "1", status="HER2-negative"),
        Case("train", "2", status="HER2-positive"),
    )
    assert not labels.warnings


def test_the_later_label_file_is_read(tmp_path: Path) -> None:
    path = written(
        tmp_path / "labels.csv",
        HEADER_2020,
        "1;0;;Negative;51;F;Aveiro",
        "2;2;Negative;Negative;48;F; IPATIMUP  Porto ",
        "3;2;Positive;Positive;;;",
        "4;3;;Positive;70;F;Aveiro",
        ";;;;;;",
    )
    assert read_labels(path, split="Testing").cases == (
        Case("test", "1", "0", None, "HER2-negative", "Aveiro", columns=(("age", "51"),)),
        Case("test", "2", "2+", "negative", "HER2-negative", "IPATIMUP Porto", columns=(("age", "48"),)),
        Case("test", "3", "2+", "positive", "HER2-positive", None),
        Case("test", "4", "3+", None, "HER2-positive", "Aveiro", columns=(("age", "70"),)),
    )


def test_a_workbook_says_the_same_as_the_csv_it_was_saved_from(tmp_path: Path) -> None:
    rows = [
        ["Case", "Immunohistochemistry ", "ISH Group", "Final Result (Ground truth)", "Laboratory"],
        [1, 0, None, "Negative", "Aveiro"],
        [2, 2.0, "Positive", "Positive", None],
        [None, None, None, None, None],
        ["3b", "3+", None, "Positive", "Porto"],
    ]
    book = Workbook()
    assert book.active is not None
    for row in rows:
        book.active.append([*row, None, "a remark beside the table"] if row[0] == 1 else row)
    book.save(tmp_path / "labels.xlsx")
    lines = [";".join("" if v is None else str(v) for v in row) for row in rows]
    written(tmp_path / "labels.csv", *lines)
    book_says, csv_says = (read_labels(tmp_path / name) for name in ("labels.xlsx", "labels.csv"))
    assert (book_says.cases, book_says.warnings) == (csv_says.cases, csv_says.warnings)
    assert book_says.rows[("train", "3b")] == "labels.xlsx, row 5"


def test_problems_of_a_workbook_carry_its_own_row_numbers(tmp_path: Path) -> None:
    book = Workbook()
    assert book.active is not None
    book.active["A3"], book.active["B3"] = "case", "ihc"
    book.active["A6"], book.active["B6"] = 7, "4+"
    book.save(tmp_path / "labels.xlsx")
    assert "row 6" in refusal(tmp_path / "labels.xlsx")


@pytest.mark.parametrize("delimiter", [";", ",", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_plain_table_may_be_saved_any_way(tmp_path: Path, delimiter: str, encoding: str, end: str) -> None:
    lines = ["case;ihc;ish;status;laboratory;split", "a.1;2+;negative;negative;São João;Training"]
    lines = [line.replace(";", delimiter) for line in lines]
    labels = read_labels(written(tmp_path / "t.csv", *lines, end=end, encoding=encoding))
    assert labels.cases == (Case("train", "a.1", "2+", "negative", "HER2-negative", "São João"),)


def test_an_old_code_page_is_read_with_a_warning(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", "case,ihc,laboratory", "1,0,São João", encoding="cp1252")
    labels = read_labels(path)
    assert labels.cases[0].laboratory == "São João"
    assert "Windows-1252" in labels.warnings[0]


def test_columns_may_stand_in_any_order_and_be_left_out(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", "Remark,STATUS , Slide", '"one, two",pos,7.mrxs')
    assert read_labels(path).cases == (Case("train", "7", status="HER2-positive"),)


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ("0", "0"),
        ("1", "1+"),
        ("1+", "1+"),
        ("2 +", "2+"),
        ("3.0", "3+"),
        ("IHC 2+", "2+"),
        ("n/a", None),
        ("-", None),
        ("1.0", "1+"),
        ("2+ (equivocal)", "2+"),
        ("3+ positive", "3+"),
        ("HER2 IHC: 1+ (low)", "1+"),
        ("0+", "0"),
        ("ultralow", "0"),
    ],
)
def test_grades_are_understood_as_they_are_written(tmp_path: Path, text: str, grade: str | None) -> None:
    assert read_labels(written(tmp_path / "t.csv", "case,ihc", f"1,{text}")).cases[0].ihc == grade


@pytest.mark.parametrize(
    ("text", "ish"),
    [
        ("Positive", "positive"),
        ("neg", "negative"),
        ("Not amplified", "negative"),
        ("Group 1", "positive"),
        ("5", "negative"),
        ("group 3", None),
        ("4", None),
        ("", None),
        ("Not performed", None),
        ("ISH+", "positive"),
        ("ISH-negative", "negative"),
        ("FISH positive", "positive"),
        ("FISH: not amplified", "negative"),
        ("1.0", "positive"),
        ("-", None),
    ],
)
def test_ish_is_understood_as_it_is_written(tmp_path: Path, text: str, ish: str | None) -> None:
    assert read_labels(written(tmp_path / "t.csv", "case,ihc,ish", f"1,2,{text}")).cases[0].ish == ish


def test_the_same_id_in_two_splits_is_two_cases(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", "case,ihc,split", "7,0,train", "7,3,test")
    assert [c.key for c in read_labels(path).cases] == [("train", "7"), ("test", "7")]
    assert [c.ihc for c in read_labels(path).of_split("Test")] == ["3+"]


def test_two_files_of_the_same_cases_are_joined(tmp_path: Path) -> None:
    old = written(tmp_path / "old.csv", "Case;HER2 Status", "1;Positive", "2;Negative")
    new = written(tmp_path / "new.csv", "case;ihc;laboratory", "1;2;Porto", "3;0;Aveiro")
    test = written(tmp_path / "test.csv", "Case;HER2 Status", "1;Negative")
    cases = read_label_files([(old, "train"), (new, "train"), (test, "test")]).cases
    assert cases == (
        Case("train", "1", "2+", None, "HER2-positive", "Porto"),
        Case("train", "2", status="HER2-negative"),
        Case("train", "3", "0", laboratory="Aveiro"),
        Case("test", "1", status="HER2-negative"),
    )


def test_two_files_that_disagree_are_refused_with_every_problem(tmp_path: Path) -> None:
    old = written(tmp_path / "old.csv", "Case;HER2 Status", "1;Positive", "2;Negative", "3;maybe")
    new = written(tmp_path / "new.csv", "case;ihc;status", "1;2;Negative", "2;3;")
    with pytest.raises(LabelError) as caught:
        read_label_files([(old, "train"), (new, "train")])
    text = str(caught.value)
    assert "row 4" in text and "maybe" in text
    # The bad file gave no case, so only that is said until it is right.
    written(old, "Case;HER2 Status", "1;Positive", "2;Negative")
    with pytest.raises(LabelError) as caught:
        read_label_files([(old, "train"), (new, "train")])
    text = str(caught.value)
    assert "case 1 has another status" in text and "case 2" in text and "3+ is called HER2-negative" in text


# Malformed files.


def test_every_problem_of_a_file_is_named_at_once_with_its_row(tmp_path: Path) -> None:
    path = written(
        tmp_path / "labels.csv",
        "Case;IHC;ISH;Status;Lab",
        "1;4+;;Negative;A",  # row 2: unknown grade
        "2;3+;;Negative;A",  # row 3: 3+ called negative
        "3;2+;Negative;Positive;A",  # row 4: ISH against status
        "4;1+;Negative;Positive;A",  # row 5: the same at 1+
        "5,0,,Negative,A",  # row 6: comma for semicolon
        "6;0;;Negative;A",
        "6;0;;Negative;A",  # row 8: two rows a case
        "7;2+;perhaps;;A",  # row 9: unknown ISH
        ";0;;Negative;A",  # row 10: no case
        "8;0;;Negative",  # row 11: a cell is missing
        "9;3+;;negative;B",  # row 12: as row 3
    )
    text = refusal(path)
    for words in (
        f"{path}, row 2: '4+' is no IHC. Write 0, 1+, 2+ or 3+",
        "rows 3 and 12: IHC 3+ is called HER2-negative",
        "row 4: IHC 2+ with negative ISH is called HER2-positive",
        "row 5: IHC 1+ with negative ISH is called HER2-positive",
        "row 6: It is split by commas, the header by semicolons",
        "row 8: The train case 6 stands in row 7 already",
        "row 9: 'perhaps' is no ISH",
        "row 10: It names no case",
        "row 11: It has 4 cells and the header has 5",
    ):
        assert words in text
    assert ".." not in text


def test_warnings_do_not_stop_the_work(tmp_path: Path) -> None:
    path = written(
        tmp_path / "t.csv",
        "case;ihc;ish;status",
        "1;1+;Positive;Positive",
        "2;3+;Negative;Positive",
        "3;2+;;",
        "4;;;Positive",
        "5;;;",
        "6;2+;;",
        "7;0;;Positive",
    )
    labels = read_labels(path)
    assert len(labels.cases) == 7
    said = "\n".join(labels.warnings)
    assert "row 2: IHC 1+ with positive ISH is called HER2-positive" in said
    assert "row 8: IHC 0 is called HER2-positive" in said
    assert "row 3: IHC 3+ with negative ISH" in said
    assert "rows 4 and 7: IHC 2+ has neither ISH nor status" in said
    assert "row 5: There is no grade" in said
    assert "row 6: There is neither grade nor status" in said


@pytest.mark.parametrize("text", ["-", "+", "equivocal", "2"])
def test_a_status_must_be_written_out(tmp_path: Path, text: str) -> None:
    assert f"'{text}' is no status" in refusal(written(tmp_path / "t.csv", "case,status", f"1,{text}"))


def test_columns_that_are_missing_or_double_are_named(tmp_path: Path) -> None:
    assert "No column names the case" in refusal(written(tmp_path / "a.csv", "number,ihc", "1,0"))
    assert "No column has grade, ISH or status" in refusal(
        written(tmp_path / "b.csv", "case,colour", "1,blue")
    )
    text = refusal(written(tmp_path / "c.csv", "case,ihc,IHC score", "1,0,0"))
    assert "'ihc' and 'IHC score' both mean the ihc" in text
    assert "holds no case" in refusal(written(tmp_path / "d.csv", "case,ihc"))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("missing.csv", None),
        ("empty.csv", b""),
        ("blank.csv", b"\n;;\n"),
        ("binary.csv", b"\x00\x01\x02\x00"),
        ("old.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"),
        ("cut.xlsx", b"PK\x03\x04 no zip archive"),
        ("half.csv", b"\xff\xfec\x00a"),
    ],
)
def test_what_is_no_table_is_refused_by_name(tmp_path: Path, name: str, data: bytes | None) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(TableError, match=name):
        read_labels(tmp_path / name)


def test_reading_never_fails_in_another_way(tmp_path: Path) -> None:
    """Bytes are cut out of and put into a good file; it is read or refused, nothing else."""
    whole = (HEADER_2020 + '\n1;2;Positive;Positive;;;"A; B"\n2;0;;Negative;;;\n').encode("utf-8-sig")
    path = tmp_path / "labels.csv"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for cut in range(len(whole)):
            for data in (
                whole[:cut],
                whole[cut:],
                whole[:cut] + b'"' + whole[cut:],
                whole[:cut] + b"\xff" + whole[cut:],
            ):
                path.write_bytes(data)
                try:
                    labels = read_labels(path)
                except (LabelError, TableError) as error:
                    assert str(path) in str(error)
                else:
                    assert all(case.id for case in labels.cases)


# What is known of a case.


@pytest.mark.parametrize(
    ("case", "four", "three"),
    [
        (Case("t", "1", "0"), "0000", "000"),
        (Case("t", "1", "1+"), "0001", "001"),
        (Case("t", "1", "2+", "negative"), "0011", "011"),
        (Case("t", "1", "2+", "positive"), "0111", "011"),
        (Case("t", "1", "3+"), "1111", "111"),
        # 2+ without ISH: the status tells it, else one bit is hidden.
        (Case("t", "1", "2+", status="HER2-positive"), "0111", "011"),
        (Case("t", "1", "2+", status="HER2-negative"), "0011", "011"),
        (Case("t", "1", "2+"), "0?11", "011"),
        # The status alone.
        (Case("t", "1", status="HER2-positive"), "?111", "?11"),
        (Case("t", "1", status="HER2-negative"), "00??", "0??"),
        # ISH alone settles nothing: it is read inside 2+ only.
        (Case("t", "1", ish="positive"), "????", "???"),
        (Case("t", "1"), "????", "???"),
        # Grade and status against each other: what both agree on. The grade itself is known.
        (Case("t", "1", "1+", "positive", "HER2-positive"), "???1", "001"),
        (Case("t", "1", "0", "positive", "HER2-positive"), "????", "000"),
        (Case("t", "1", "3+", "negative", "HER2-positive"), "1111", "111"),
    ],
)
def test_bits_follow_from_what_is_known(case: Case, four: str, three: str) -> None:
    assert known(case, FOUR) == four
    assert known(case, THREE) == three


def test_a_bit_is_known_exactly_when_all_possible_levels_agree() -> None:
    statuses = (None, "HER2-positive", "HER2-negative")
    for ihc in (None, *GRADES):
        for ish in (None, "positive", "negative"):
            for status in statuses:
                case = Case("t", "1", ihc, ish, status)
                rows = [bits_of_level(level, FOUR) for level in case.possible_levels]
                assert rows
                for bit, column in zip(known(case, FOUR), zip(*rows, strict=True), strict=True):
                    assert bit == (str(column[0]) if len(set(column)) == 1 else "?")
                # More knowledge never hides a bit, unless it contradicts.
                if status is None and ihc is not None:
                    less = Case("t", "1", None, ish, status)
                    assert known(less, THREE).count("?") >= known(case, THREE).count("?")


def test_status_follows_from_the_grade_and_ish_where_the_file_gives_none() -> None:
    assert [Case("t", "1", g).positive for g in GRADES] == [False, False, None, True]
    assert Case("t", "1", "2+", "positive").positive is True
    assert Case("t", "1", "2+", "negative").positive is False
    assert Case("t", "1", "1+", "positive", "HER2-positive").positive is True
    assert Case("t", "1").positive is None


def test_levels_are_named_only_when_they_are_sure() -> None:
    assert level_of(Case("t", "1", "2+"), THREE) == "2+"
    assert level_of(Case("t", "1", "2+"), FOUR) is None
    assert level_of(Case("t", "1", "2+", "positive"), FOUR) == "2+/ISH+"


def test_arrays_have_a_row_a_case() -> None:
    cases = [Case("t", "1", "2+"), Case("t", "2", status="HER2-positive"), Case("t", "3", "3+")]
    bits, sure = target_arrays(cases, FOUR)
    assert bits.tolist() == [[0, 0, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1]]
    assert sure.tolist() == [[True, False, True, True], [False, True, True, True], [True] * 4]
    assert target_arrays([], THREE)[0].shape == (0, 3)
    assert grade_numbers(cases).tolist() == [2, -1, 3]


# Slides and cases.


def test_slides_match_the_cases_of_their_own_split(tmp_path: Path) -> None:
    cases = [Case("train", "1"), Case("train", "2"), Case("test", "1")]
    for split, found in (("Training", [0, 1]), ("test", [0])):
        matching = match_slides(cases, ["1.mrxs", "2.ome.tif"], split=split, labels={})
        assert [index for _, index in matching.matched] == found
        assert {case.split for case, _ in matching.matched} == {"train" if len(found) == 2 else "test"}
    assert [u.name for u in matching.unmatched] == ["2.ome.tif"]


def test_what_is_missing_on_either_side_is_named_with_its_row_and_reason(tmp_path: Path) -> None:
    path = written(
        tmp_path / "labels.csv",
        "case,ihc,split",
        *("7,0,train", "8,0,test", "9,0,train", "11,0,train", "12,0,train"),
    )
    slides = ["007.svs", "12.tif", "8.svs", "9.svs", "9.tif", "stray.svs"]
    labels = read_labels(path)
    matching = match_slides(labels.cases, slides, split="train", labels=labels.rows)
    assert [(case.id, slides[index]) for case, index in matching.matched] == [("12", "12.tif")]
    assert [(u.kind, u.name, u.label, u.reason) for u in matching.unmatched] == [
        ("case without slide", "7", "labels.csv, row 2", "no slide of that name; did you mean 007?"),
        ("case with several slides", "9", "labels.csv, row 4", "9.svs, 9.tif; keep one"),
        ("case without slide", "11", "labels.csv, row 5", "no slide of that name"),
        ("slide without label", "007.svs", "", "no label of that name in the split train; did you mean 7?"),
        (
            "slide without label",
            "8.svs",
            "",
            "no label of that name in the split train; there is one in test",
        ),
        ("slide without label", "stray.svs", "", "no label of that name in the split train"),
    ]
    lines = matching.lines(4)
    assert lines[0] == (
        "Slides and labels of the split train: 1 matched; 2 × case without slide; "
        "3 × slide without label; 1 × case with several slides."
    )
    kinds = [u.kind for u in matching.unmatched[:4]]
    assert [line.split("  ")[0] for line in lines[1:]] == ["what", *kinds, "and 2 more"]
    table = matching.table(slides, labels.rows).decode().splitlines()
    assert table[:2] == ["what,name,label,why", 'matched,12.tif,"labels.csv, row 6",']
    assert len(table) == 2 + len(matching.unmatched)


def test_a_case_of_two_files_stands_in_the_first(tmp_path: Path) -> None:
    first = written(tmp_path / "a.csv", "case,ihc", "1,0")
    second = written(tmp_path / "b.csv", "case,status", "2,Negative", "1,Negative")
    rows = read_label_files([(first, "train"), (second, "train")]).rows
    assert rows == {("train", "1"): "a.csv, row 2", ("train", "2"): "b.csv, row 2"}


def test_numbers_written_with_decimals_and_names_in_another_normal_form_find_their_case() -> None:
    cases = [Case("train", case_id(name)) for name in ("1.0", "2,00", "Mu\u0308ller")]
    matching = match_slides(cases, ["1.mrxs", "002.mrxs", "M\u00fcller.mrxs"], split="train", labels={})
    assert [index for _, index in matching.matched] == [2]
    said = {u.name: u.reason for u in matching.unmatched}
    assert said["1.0"].endswith("did you mean 1?")
    assert said["1.mrxs"].endswith("did you mean 1.0?")
    assert said["2,00"].endswith("did you mean 002?")


def test_ultralow_is_counted_and_learned_as_0(tmp_path: Path) -> None:
    rows = ("1,0+,", "2,ultralow,", "3,0 (ultralow),", "4,0,", "5,1+ ,", "6,0.0,")
    labels = read_labels(written(tmp_path / "t.csv", "case,ihc,status", *rows))
    assert [case.ultralow for case in labels.cases] == [True, True, True, False, False, False]
    assert [case.ihc for case in labels.cases] == ["0", "0", "0", "0", "1+", "0"]
    assert any("rows 2, 3 and 4: IHC 0+ (ultralow). It is counted" in line for line in labels.warnings)


@pytest.mark.parametrize("text", ["HER2-low", "low", "HER2-ultralow", "HER2 zero"])
def test_a_low_status_is_negative_and_tells_no_grade(tmp_path: Path, text: str) -> None:
    (case,) = read_labels(written(tmp_path / "t.csv", "case,status", f"1,{text}")).cases
    assert case.positive is False and case.ihc is None


@pytest.mark.parametrize(
    ("header", "row", "meant"),
    [
        ("case,ihc", "1,HER2-low", "HER2-low is 1+, or 2+ with negative ISH"),
        ("case,ihc", "1,1+ (positive)", "IHC 1+ is called negative"),
        ("case,status", "1,FISH positive", "belongs into a column 'ish'"),
    ],
)
def test_a_word_in_the_wrong_place_is_refused_with_what_is_meant(
    tmp_path: Path, header: str, row: str, meant: str
) -> None:
    with pytest.raises(LabelError, match="row 2") as caught:
        read_labels(written(tmp_path / "t.csv", header, row))
    assert meant in str(caught.value)


def test_columns_that_may_tell_the_status_are_kept(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", "case,ihc,grade,ER,age,patient", "1,2+,3,pos,61,P 1", "2,0,,-,,")
    one, other = read_labels(path).cases
    assert one.columns == (("er", "pos"), ("tumour grade", "3"), ("age", "61"))
    assert (one.patient, one.ihc, other.columns, other.patient) == ("P 1", "2+", (), None)
    alone = read_labels(written(tmp_path / "u.csv", "case,grade", "1,3")).cases[0]
    assert (alone.ihc, alone.columns) == ("3+", ())
