from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner, Result
from helpers.example_results import made_prediction, made_provenance, made_region, made_result

from bridge.commands.evaluate import command
from bridge.results.files import ResultFileError, write_csv, write_json
from bridge.results.predictions import read_predictions
from bridge.results.schema import CompositeResult, Outcome, SlideResult
from herohe_model.dataset.cases import Case
from herohe_model.dataset.labels import LabelError
from herohe_model.dataset.predictions import EvaluationError
from herohe_model.dataset.submission import Submission, write_submission
from herohe_model.errors import HeroheError
from herohe_model.evaluation.compare import from_json as from_comparison_json
from herohe_model.evaluation.schema import Evaluation, from_json

THRESHOLD = 0.45


def cases() -> list[Case]:
    ihc = ["0", "1+", "2+", "2+", "2+", "3+"]
    return [
        Case("test", f"case-{k}", ihc[k % 6], status="HER2-positive" if k % 6 >= 3 else "HER2-negative")
        for k in range(60)
    ]


def results() -> list[SlideResult]:
    """A scored slide a case; P(positive) knows the status, more or less."""
    rng = np.random.default_rng(0)
    made = []
    for case in cases():
        p = round(float(np.clip(0.4 + 0.2 * bool(case.positive) + rng.normal(0, 0.15), 0, 1)), 6)
        prediction = msgspec.structs.replace(
            made_prediction(p),
            grade="2+" if p >= 0.5 else "1+",
            status="HER2-positive" if p >= THRESHOLD else "HER2-negative",
        )
        composites = tuple(CompositeResult(k, (0.0, 0.0, 0.0), round(p, 6), "2+") for k in range(2))
        union = msgspec.structs.replace(made_region(), prediction=prediction, composites=composites)
        whole = made_result(case.id, per_annotation=True)
        made.append(msgspec.structs.replace(whole, slide=f"{case.id}.mrxs", union=union))
    return made


def write_truth(path: Path, these: list[Case]) -> Path:
    lines = ["case;ihc;status;split", *(f"{c.id};{c.ihc};{c.status};{c.split}" for c in these)]
    path.write_text("\n".join(lines), encoding="utf-8-sig")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_csv(tmp_path / "results.csv", results())
    write_json(tmp_path / "results.json", results())
    read = read_predictions(tmp_path / "results.csv")
    write_submission(tmp_path / "submission.csv", Submission(read.case_ids, read.p_positive, read.called))
    write_truth(tmp_path / "truth.csv", cases())
    return tmp_path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(
        command, [str(a) for a in arguments] + ["--resamples", "200"], catch_exceptions=False
    )


def evaluated(folder: Path) -> Evaluation:
    return from_json((folder / "evaluation.json").read_bytes())


def test_results_are_evaluated_into_a_page_and_json(folder: Path) -> None:
    done = run(folder / "results.csv", "--truth", folder / "truth.csv")
    assert done.exit_code == 0
    made = evaluated(folder)
    assert made.cases == 60 and made.model == "trial abababababab"
    f1 = made.measure("f1")
    assert f"{f1.value:.3f}" in done.stdout and "always positive: 0.667" in done.stdout
    assert "At IHC 2+" in done.stdout and "Leaderboard" not in done.stdout
    assert "Research use only" in done.stdout
    assert made.title == "results.csv against truth.csv"
    assert made.title in (folder / "evaluation.html").read_text(encoding="utf-8")
    assert not list(folder.glob("*.part"))


def test_the_three_kinds_of_file_say_the_same_of_the_status(folder: Path) -> None:
    found = {}
    for name in ("results.csv", "results.json", "submission.csv"):
        out = folder / name.replace(".", "-")
        assert run(folder / name, "--truth", folder / "truth.csv", "--output", out).exit_code == 0
        found[name] = evaluated(out)
    assert found["results.csv"].threshold is None
    first = found["results.csv"]
    assert first.threshold is None and 0.4 < first.cut < 0.5
    for other in found.values():
        assert (other.status, other.equivocal, other.lines[0].p_positive) == (
            first.status,
            first.equivocal,
            first.lines[0].p_positive,
        )
    assert found["results.json"].grade == first.grade
    # Only results.json knows the composites, and a submission no grades.
    assert found["results.json"].agreement is not None and first.agreement is None
    assert found["submission.csv"].grade == ()


def test_a_runs_folder_is_evaluated_by_the_models_own_threshold(tmp_path: Path) -> None:
    """The highest P(positive) called negative and the lowest called positive are far from it."""
    scored = [
        msgspec.structs.replace(
            result,
            provenance=msgspec.structs.replace(
                made_provenance(), decision_threshold=0.4321, threshold_chosen="out of fold"
            ),
        )
        for result in results()
    ]
    write_truth(tmp_path / "truth.csv", cases())
    (tmp_path / "herohe-bridge").mkdir()
    write_csv(tmp_path / "herohe-bridge" / "results.csv", scored)
    write_json(tmp_path / "herohe-bridge" / "results.json", scored)
    for given in (".", "herohe-bridge", "herohe-bridge/results.csv", "herohe-bridge/results.json"):
        assert run(tmp_path / given, "--truth", tmp_path / "truth.csv").exit_code == 0
        made = evaluated(tmp_path / "herohe-bridge")
        assert made.threshold == 0.4321 and made.threshold_source == "the model's own, out of fold"
    with pytest.raises(ResultFileError, match=r"no results\.json"):
        run(tmp_path / "nothing", "--truth", tmp_path / "truth.csv")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_files_whose_names_are_no_text_are_evaluated(folder: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(folder) + b"/r\xe9sultats.csv"))
    (folder / "results.csv").rename(odd)
    assert run(odd, "--truth", folder / "truth.csv").exit_code == 0
    assert evaluated(folder).title == r"r\xe9sultats.csv against truth.csv"


def test_a_threshold_can_be_given(folder: Path) -> None:
    run(folder / "results.csv", "--truth", folder / "truth.csv", "--threshold", 0)
    made = evaluated(folder)
    assert made.threshold == 0.0 and made.measure("recall").value == 1.0
    assert "by hand" in made.threshold_source


def test_predictive_values_are_those_of_the_stated_prevalence(folder: Path) -> None:
    run(folder / "results.json", "--truth", folder / "truth.csv", "--prevalence", 0.15)
    made = evaluated(folder)
    assert made.prevalence == 0.15
    sensitivity, specificity = made.measure("recall").value, made.measure("specificity").value
    ppv = 0.15 * sensitivity / (0.15 * sensitivity + 0.85 * (1 - specificity))
    assert made.predictive[0].value == pytest.approx(ppv, abs=1e-5)
    assert made.predictive[0].low < ppv < made.predictive[0].high < 0.6
    assert "At a prevalence of 15%" in (folder / "evaluation.html").read_text(encoding="utf-8")


def test_the_calls_in_three_are_counted_on_the_page(folder: Path) -> None:
    called = [
        msgspec.structs.replace(
            r,
            union=msgspec.structs.replace(
                r.union,
                prediction=msgspec.structs.replace(
                    r.union.prediction,
                    call="likely negative" if r.union.prediction.p_positive < 0.4 else "likely positive",
                ),
            ),
        )
        for r in results()
    ]
    write_json(folder / "results.json", called)
    run(folder / "results.json", "--truth", folder / "truth.csv")
    made = evaluated(folder)
    low = [line for line in made.lines if line.p_positive < 0.4]
    assert made.call_rates["positives_missed"] == sum(line.positive for line in low)
    assert made.call_rates["share_saved"] == pytest.approx(len(low) / 60, abs=1e-6)
    assert "of IHC would be saved" in (folder / "evaluation.html").read_text(encoding="utf-8")


def test_a_cases_slide_is_one_click_away_and_slides_of_the_run_without_a_prediction_are_counted(
    folder: Path,
) -> None:
    scored = results()
    for k, outcome in ((0, Outcome.UNREADABLE), (1, Outcome.INSUFFICIENT_TISSUE)):
        scored[k] = msgspec.structs.replace(scored[k], outcome=outcome, union=None, annotations=())
    write_json(folder / "results.json", scored)
    write_truth(folder / "truth.csv", cases()[1:])
    run(folder / "results.json", "--truth", folder / "truth.csv")
    text = (folder / "evaluation.html").read_text(encoding="utf-8")
    assert "1 insufficient tissue, 1 unreadable" in text and "#slide-" not in text
    (folder / "report.html").touch()
    run(folder / "results.json", "--truth", folder / "truth.csv", "--output", folder / "sub")
    made = evaluated(folder / "sub")
    assert {line.case: line.number for line in made.lines}["case-7"] == 8
    wrong = next(line for line in made.lines if line.positive != line.called_positive)
    text = (folder / "sub" / "evaluation.html").read_text(encoding="utf-8")
    assert f'<a href="../report.html#slide-{wrong.number}">{wrong.case}</a>' in text


def test_the_same_command_gives_the_same_bytes(folder: Path) -> None:
    for name in ("a", "b"):
        run(folder / "results.json", "--truth", folder / "truth.csv", "--output", folder / name)
    for file in ("evaluation.json", "evaluation.html"):
        assert (folder / "a" / file).read_bytes() == (folder / "b" / file).read_bytes()


def test_what_has_only_one_side_is_named_and_the_rest_evaluated(folder: Path) -> None:
    write_truth(folder / "truth.csv", [*cases()[2:], Case("test", "unseen", "0", status="HER2-negative")])
    scored = results()
    scored[5] = msgspec.structs.replace(
        scored[5], outcome=Outcome.UNREADABLE, message="It was cut off.", union=None, annotations=()
    )
    write_csv(folder / "results.csv", scored)
    done = run(folder / "results.csv", "--truth", folder / "truth.csv")
    assert done.exit_code == 0
    assert "2 slides have no truth: case-0, case-1." in done.stderr
    assert "case-5 (truth.csv, row 5: unreadable: It was cut off.)" in done.stderr
    assert "unseen (truth.csv, row 60: no such slide in the results)" in done.stderr
    made = evaluated(folder)
    assert made.cases == 57 and made.left_out.without_truth == ("case-0", "case-1")
    assert "It was cut off" in (folder / "evaluation.html").read_text(encoding="utf-8")


def test_no_match_at_all_is_an_error_and_writes_nothing(folder: Path) -> None:
    write_truth(folder / "truth.csv", [Case("test", "else", "0", status="HER2-negative")])
    with pytest.raises(EvaluationError, match=r"case-0.*Cases: else"):
        run(folder / "results.csv", "--truth", folder / "truth.csv")
    assert not (folder / "evaluation.html").exists()


def test_a_split_of_the_truth_is_taken_when_it_is_named(folder: Path) -> None:
    others = [Case("train", c.id, "0", status="HER2-negative") for c in cases()]
    write_truth(folder / "truth.csv", [*others, *cases()])
    with pytest.raises(EvaluationError, match="which split"):
        run(folder / "results.csv", "--truth", folder / "truth.csv")
    run(folder / "results.csv", "--truth", folder / "truth.csv", "--split", "Training")
    assert evaluated(folder).positive == 0
    run(folder / "results.csv", "--truth", folder / "truth.csv", "--split", "test")
    assert evaluated(folder).positive == 30
    with pytest.raises(EvaluationError, match="It has test, train"):
        run(folder / "results.csv", "--truth", folder / "truth.csv", "--split", "validation")


def test_the_organisers_label_file_does_for_a_truth(folder: Path) -> None:
    lines = ["Case;HER2 Status", *(f"{c.id};{'Positive' if c.positive else 'Negative'}" for c in cases())]
    (folder / "labels.csv").write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    assert run(folder / "results.csv", "--truth", folder / "labels.csv").exit_code == 0
    made = evaluated(folder)
    assert made.cases == 60 and made.graded == 0 and made.equivocal is None


def test_a_truth_that_contradicts_itself_is_refused_with_its_row(folder: Path) -> None:
    (folder / "truth.csv").write_text("case,ihc,status\ncase-0,3+,Negative\n")
    with pytest.raises(LabelError, match="row 2"):
        run(folder / "results.csv", "--truth", folder / "truth.csv")


def test_results_of_two_models_are_noticed(folder: Path) -> None:
    scored = results()
    other = msgspec.structs.replace(made_provenance(), model="other")
    scored[0] = msgspec.structs.replace(scored[0], provenance=other)
    write_json(folder / "results.json", scored)
    assert "results of 2 models" in run(folder / "results.json", "--truth", folder / "truth.csv").stderr


def test_one_slide_under_several_names_is_told_by_its_fingerprint(folder: Path) -> None:
    told = run(folder / "results.json", "--truth", folder / "truth.csv").stderr
    assert "test/case-0, test/case-1" in told and "55 more have one and the same slide" in told
    apart = [
        msgspec.structs.replace(
            r, provenance=msgspec.structs.replace(made_provenance(), slide_fingerprint=r.slide)
        )
        for r in results()
    ]
    write_json(folder / "results.json", apart)
    assert "one and the same" not in run(folder / "results.json", "--truth", folder / "truth.csv").stderr


def test_two_slides_of_one_name_are_refused(folder: Path) -> None:
    scored = results()
    scored[1] = msgspec.structs.replace(scored[1], slide="case-0.tif")
    for name, write in (("results.csv", write_csv), ("results.json", write_json)):
        write(folder / name, scored)
        with pytest.raises(EvaluationError, match="two predictions of case-0"):
            read_predictions(folder / name)


def test_a_damaged_results_file_names_its_rows(folder: Path) -> None:
    path = folder / "results.csv"
    lines = path.read_text().splitlines()
    slides = [k for k, line in enumerate(lines) if ",slide,scored," in line]
    lines[slides[1]] = lines[slides[1]].replace("HER2-", "HER3-")
    lines[slides[3]] = lines[slides[3]].split(",", 1)[1]
    path.write_text("\n".join(lines))
    with pytest.raises(ResultFileError) as caught:
        read_predictions(path)
    assert f"row {slides[1] + 1}: The result of case-1 cannot be understood" in str(caught.value)
    assert f"row {slides[3] + 1}: It has {lines[0].count(',')} cells" in str(caught.value)


@pytest.mark.parametrize(("name", "text"), [("x.csv", "a,b\n1,2\n"), ("x.json", "{}"), ("none.csv", None)])
def test_what_is_no_result_is_refused_by_name(tmp_path: Path, name: str, text: str | None) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(HeroheError, match=name):
        read_predictions(tmp_path / name)


def test_slides_that_were_not_scored_leave_nothing_to_evaluate(folder: Path) -> None:
    none = [
        msgspec.structs.replace(r, outcome=Outcome.INSUFFICIENT_TISSUE, union=None, annotations=())
        for r in results()
    ]
    write_csv(folder / "results.csv", none)
    with pytest.raises(EvaluationError, match="No slide has a truth"):
        run(folder / "results.csv", "--truth", folder / "truth.csv")


def test_two_predictions_of_the_same_slides_are_compared(folder: Path) -> None:
    read = read_predictions(folder / "results.csv")
    p = read.p_positive.copy()
    # case-0 is negative and case-3 positive; B calls both wrong, and lacks the last case.
    p[0], p[3] = 0.99, 0.01
    other = Submission(read.case_ids[:-1], p[:-1], (p >= THRESHOLD)[:-1])
    write_submission(folder / "b.csv", other)
    done = run(folder / "results.csv", folder / "b.csv", "--truth", folder / "truth.csv")
    assert done.exit_code == 0 and not (folder / "evaluation.html").exists()
    found = from_comparison_json((folder / "comparison.json").read_bytes())
    assert found.cases == 59 and found.only_first == ("case-59",) and found.only_second == ()
    before = {"case-0": read.called[0], "case-3": not read.called[3]}
    expected = {name for name, wrong in before.items() if not wrong}
    assert expected and {d.case for d in found.disagreements} == expected
    assert found.right[1] == len(expected) and found.right[2] == 0 and sum(found.right) == 59
    auc, f1 = found.gains
    assert auc.value > 0 and f1.value > 0 and auc.low < auc.value < auc.high
    assert f1.value == pytest.approx(found.measured[0].f1.value - found.measured[1].f1.value, abs=2e-6)
    assert "A alone" in done.stdout and "1 cases predicted by A alone take no part" in done.stdout
    text = (folder / "comparison.html").read_text(encoding="utf-8")
    assert "case-59" in text and "McNemar" in text


def test_a_run_beside_itself_differs_in_nothing(folder: Path) -> None:
    run(folder / "results.csv", folder / "results.json", "--truth", folder / "truth.csv")
    found = from_comparison_json((folder / "comparison.json").read_bytes())
    assert [(g.value, g.low, g.high, g.p_value) for g in found.gains] == [(0, 0, 0, 1)] * 2
    assert found.right[1:3] == (0, 0) and found.mcnemar_p == 1
