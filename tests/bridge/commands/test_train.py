"""From a folder of slides with labels to a model file, and from slides to a submission, as a user does it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner, Result
from helpers.synthetic_cohort import CohortRules, make_cohort

from bridge.annotations.geojson_writing import write_annotations
from bridge.annotations.regions import Annotation
from bridge.batch.executor import ThreadExecutor
from bridge.batch.options import BatchOptions
from bridge.batch.predict import predict_slides
from bridge.commands.predict import command as predict
from bridge.commands.train import command as train
from bridge.projects.open import open_collection
from bridge.results.files import read_json
from bridge.results.predictions import predictions_of
from bridge.results.schema import SlideResult
from bridge.scoring.options import ScoreOptions
from herohe_model.dataset.cases import case_id
from herohe_model.dataset.labels import read_labels
from herohe_model.dataset.submission import read_submission
from herohe_model.engines.scorer import Scorer
from herohe_model.errors import CancelledError, HeroheError, OptionError, RegionError, SlideError
from herohe_model.grades import bit_probabilities
from herohe_model.model.card import read_card
from herohe_model.model.compute import Compute
from herohe_model.notice import SEEN_IN_TRAINING
from herohe_model.run_lock import only_run
from herohe_model.training.cross_validation import CaseLogits
from herohe_model.training.options import AugmentOptions, TrainOptions
from herohe_model.training.run_folder import RunFolder

_RULES = CohortRules(side_px=320, laboratories=2, noise=0.0)
_QUICK = (
    *("--no-pretrained", "--backbone", "test_resnet", "--patch-px", "16", "--mpp", "0.485"),
    *("--batch", "4", "--micro-batch", "4", "--lr", "0.003", "--epochs", "2", "--validate-every", "1"),
    *("--final-composites", "2", "--precision", "fp32", "--device", "cpu", "--threads", "1"),
    *("--workers", "2", "--region-class", "Tumor"),
)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten slides with their tumour in GeoJSON beside them, and labels.csv."""
    folder = tmp_path_factory.mktemp("cohort")
    for number, member in enumerate(make_cohort(folder, 10, seed=3, rules=_RULES)):
        geometry = member.slide.geometry
        assert geometry is not None
        uuid = f"{number:08x}-0000-4000-8000-000000000000"
        write_annotations(member.slide.path, [Annotation(uuid, "tumour", "Tumor", geometry)])
    return folder


def run(command: click.Command, *arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def trained(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    result = run(train, cohort, "--labels", cohort / "labels.csv", "--output", folder, "--folds", 2, *_QUICK)
    assert result.exit_code == 0, result.output
    assert "Model:" in result.output and "research use only" in result.output
    assert f"Page: {folder / 'evaluation.html'}" in result.output
    return folder


def test_a_class_that_no_slide_has_is_one_sentence_before_anything_is_trained(
    cohort: Path, tmp_path: Path
) -> None:
    options = [*_QUICK, "--region-class", "tumour", "--skip-unusable"]
    with pytest.raises(RegionError, match=r"class tumour .*did you mean Tumor\?"):
        run(train, cohort, "--labels", cohort / "labels.csv", "--output", tmp_path, *options)


def test_a_training_that_failed_before_its_first_step_binds_nobody(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    options = [option for option in _QUICK if option != "--no-pretrained"]
    begin = (train, cohort, "--labels", cohort / "labels.csv", "--output", tmp_path / "run", "--folds", 0)
    with pytest.raises(HeroheError, match="--no-pretrained"):
        run(*begin, *options)
    assert run(*begin, *options, "--no-pretrained").exit_code == 0
    with pytest.raises(OptionError, match="begun differently: lr was"):
        run(*begin, *options, "--no-pretrained", "--lr", 0.1)


def test_two_trainings_into_one_folder_are_refused_by_name(cohort: Path, tmp_path: Path) -> None:
    with only_run(tmp_path / "run"), pytest.raises(HeroheError, match=r"Another run uses .*run\. Wait"):
        run(train, cohort, "--labels", cohort / "labels.csv", "--output", tmp_path / "run", *_QUICK)


def test_a_folder_that_cannot_be_made_is_refused_with_what_to_do(cohort: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HeroheError, match=r"cannot be written to .* another --output"):
        run(train, cohort, "--labels", cohort / "labels.csv", "--output", tmp_path / "file" / "run", *_QUICK)


def test_links_in_the_folder_of_a_run_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(HeroheError, match="is a link"), only_run(tmp_path / "run"):
        pass
    if hasattr(os, "O_NOFOLLOW"):
        (tmp_path / "run" / "log.jsonl").symlink_to(tmp_path / "precious")
        with pytest.raises(OSError, match="symbolic link"):
            RunFolder(tmp_path / "run").append_log({"event": "start"})
    assert (tmp_path / "precious").read_text() == "mine"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_run_folder_whose_name_is_no_text_names_a_model_all_the_same(cohort: Path, tmp_path: Path) -> None:
    output = Path(os.fsdecode(os.fsencode(tmp_path) + b"/r\xfcn"))
    labels = ("--labels", cohort / "labels.csv")
    arguments = [str(a) for a in (cohort, *labels, "--output", output, "--folds", 0, *_QUICK)]
    subprocess.run([sys.executable, "-m", "bridge", "train", *arguments], check=True, capture_output=True)
    assert read_card(output / "model.safetensors")[0].name == "test_resnet ihc+ish r\\xfcn"


def test_help_shows_the_defaults_that_training_takes() -> None:
    defaults = msgspec.to_builtins(TrainOptions())
    defaults |= {key: getattr(AugmentOptions(), key) for key in ("stain", "colour", "blur", "jpeg", "scale")}
    # Said in other words: what the weights' own files say of them is the default.
    apart = ("pretrained", "normalisation")
    shown = {p.name: p.show_default for p in train.params if isinstance(p, click.Option) and p.name}
    given = {name: text for name, text in shown.items() if name in defaults and name not in apart}
    assert len(given) > 20
    assert given == {name: str(defaults[name]) for name in given}
    assert defaults["pretrained"] is True and shown["pretrained"] == "pretrained"


def test_training_by_folds_gives_one_file_of_all_members_with_a_full_card(trained: Path) -> None:
    card, _ = read_card(trained / "model.safetensors")
    assert card.members == 2
    assert "out-of-fold cases of 2 models" in card.threshold_chosen
    assert card.trained_on.startswith("cohort not stated: 10 cases")
    assert (card.knowledge, card.cohort, card.call) == ("trained", "", None)
    assert card.learned == card.steps and len(card.slides) == 10
    assert card.metrics["out_of_fold"]["status"]["f1"].keys() == {"value", "low", "high"}
    for fold in ("fold-1", "fold-2"):
        assert {p.name for p in (trained / fold).iterdir()} == {
            "config.json",
            "log.jsonl",
            "curves.html",
            "checkpoints",
            "model.safetensors",
            "held-out.json",
        }


def test_out_of_fold_predictions_are_what_predict_says_with_the_folds_network(
    trained: Path, cohort: Path, tmp_path: Path
) -> None:
    model = trained / "fold-1" / "model.safetensors"
    arguments = ("--region-class", "Tumor", "--composites", 2, "--precision", "fp32", "--device", "cpu")
    result = run(predict, cohort, "--model", model, "--output", tmp_path / "all.csv", *arguments)
    assert result.exit_code == 0, result.output
    # This network has seen five of the ten slides, and each of their results says so.
    scored = read_json(tmp_path / "all-results" / "results.json")
    card, _ = read_card(model)
    seen = {s.slide for s in scored if SEEN_IN_TRAINING in s.warnings}
    assert len(card.slides) == len(seen) == 5
    (told,) = (w for w in predictions_of(scored, tmp_path).warnings if "trained on 5 of these slides" in w)
    assert any(case_id(name) in told for name in seen)
    said = read_submission(tmp_path / "all.csv")
    by_case = dict(zip(said.case_ids, said.soft.tolist(), strict=True))
    held_out = msgspec.json.decode((trained / "fold-1" / "held-out.json").read_bytes(), type=list[CaseLogits])
    assert len(held_out) == 5
    assert not {line.case for line in held_out} & {case_id(name) for name in seen}
    for line in held_out:
        p = bit_probabilities(np.array(line.logits)).mean(axis=0)[card.positive_bit]
        assert by_case[line.case] == pytest.approx(p, abs=2e-6)


def test_every_case_is_out_of_fold_once(trained: Path) -> None:
    assert "out of fold" in (trained / "evaluation.html").read_text(encoding="utf-8")
    lines = msgspec.json.decode((trained / "out-of-fold.json").read_bytes(), type=list[CaseLogits])
    assert sorted(line.case for line in lines) == [f"{k:03d}" for k in range(1, 11)]
    assert len(read_submission(trained / "out-of-fold.csv").case_ids) == 10


def test_the_same_command_again_finds_the_run_finished(trained: Path, cohort: Path) -> None:
    before = (trained / "fold-1" / "model.safetensors").stat().st_mtime_ns
    model = (trained / "model.safetensors").read_bytes()
    result = run(train, cohort, "--labels", cohort / "labels.csv", "--output", trained, "--folds", 2, *_QUICK)
    assert result.exit_code == 0
    assert (trained / "fold-1" / "model.safetensors").stat().st_mtime_ns == before
    assert (trained / "model.safetensors").read_bytes() == model


def test_other_options_do_not_go_on_with_a_run(trained: Path, cohort: Path) -> None:
    labels = ("--labels", cohort / "labels.csv", "--output", trained, "--folds", 2)
    with pytest.raises(OptionError, match="seed was 0, is 1"):
        run(train, cohort, *labels, *_QUICK, "--seed", 1)


def test_leaving_one_laboratory_out_trains_a_network_each(cohort: Path, tmp_path: Path) -> None:
    labels = ("--labels", cohort / "labels.csv", "--output", tmp_path)
    assert run(train, cohort, *labels, "--leave-one-laboratory-out", *_QUICK).exit_code == 0
    card, _ = read_card(tmp_path / "model.safetensors")
    assert card.metrics["folds"] == ["laboratory A", "laboratory B"]


def test_without_folds_nothing_is_chosen(cohort: Path, tmp_path: Path) -> None:
    labels = ("--labels", cohort / "labels.csv", "--output", tmp_path)
    assert run(train, cohort, *labels, "--folds", 0, *_QUICK).exit_code == 0
    card, _ = read_card(tmp_path / "model.safetensors")
    assert (card.members, card.threshold_chosen) == (1, "not chosen: one half")


def test_what_has_no_partner_is_named_and_what_cannot_be_used_stops(cohort: Path, tmp_path: Path) -> None:
    slides = tmp_path / "slides"
    slides.mkdir()
    for file in cohort.iterdir():
        if file.suffix in (".tif", ".geojson"):
            (slides / file.name).write_bytes(file.read_bytes())
    (slides / "001.tif").rename(slides / "unlabelled.tif")
    (slides / "002.tif").write_bytes(b"no slide")
    labels = ("--labels", cohort / "labels.csv", "--output", tmp_path / "run", "--folds", 2)
    with pytest.raises(SlideError, match=r"1 of 9 slides(.|\n)*002\.tif"):
        run(train, slides, *labels, *_QUICK)
    result = run(train, slides, *labels, *_QUICK, "--skip-unusable")
    said = [" ".join(line.split()) for line in result.stderr.splitlines()]
    assert "case without slide 001 labels.csv, row 2 no slide of that name" in said
    assert "slide without label unlabelled.tif no label of that name in the split train" in said
    kept = (tmp_path / "run" / "slides-and-labels.csv").read_text().splitlines()
    assert kept[1] == 'matched,002.tif,"labels.csv, row 3",'
    assert kept[-1] == "slide without label,unlabelled.tif,,no label of that name in the split train"
    card, _ = read_card(tmp_path / "run" / "model.safetensors")
    assert card.trained_on.startswith("cohort not stated: 8 cases")


def test_one_file_under_two_cases_with_other_labels_stops(cohort: Path, tmp_path: Path) -> None:
    slides = tmp_path / "slides"
    slides.mkdir()
    cases = read_labels(cohort / "labels.csv").cases
    first = cases[0].id
    other = next(case.id for case in cases if case.positive != cases[0].positive)
    for file in cohort.glob(f"{first}.*"):
        for name in (first, other):
            (slides / file.name.replace(first, name, 1)).write_bytes(file.read_bytes())
    given = ("--labels", cohort / "labels.csv", "--output", tmp_path / "run", "--folds", 2)
    with pytest.raises(SlideError, match=rf"train/{first}, train/{other} have one and the same slide"):
        run(train, slides, *given, *_QUICK)


def test_the_test_split_is_not_split_into_folds(cohort: Path, tmp_path: Path) -> None:
    text = (cohort / "labels.csv").read_text().replace(",train", ",test")
    (tmp_path / "labels.csv").write_text(text)
    arguments = ("--labels", tmp_path / "labels.csv", "--split", "test", "--output", tmp_path / "run")
    with pytest.raises(OptionError, match="--folds 0"):
        run(train, cohort, *arguments, *_QUICK)
    assert not list((tmp_path / "run").glob("fold-*"))


def test_predict_names_a_slide_without_a_prediction(trained: Path, cohort: Path, tmp_path: Path) -> None:
    slides = tmp_path / "slides"
    slides.mkdir()
    for name in ("001.tif", "002.tif", "001.geojson"):
        source = cohort / name
        if source.exists():
            (slides / name).write_bytes(source.read_bytes())
    (slides / "003.tif").write_bytes(b"no slide")
    output = tmp_path / "submission.csv"
    result = run(predict, slides, "--model", trained / "model.safetensors", "--output", output)
    assert result.exit_code == 1
    assert "003.tif: unreadable" in result.stderr
    assert read_submission(output).case_ids == ("001", "002")
    assert {path.name for path in slides.iterdir()} <= {"001.tif", "002.tif", "003.tif", "001.geojson"}
    (slides / "001.svs").write_bytes(b"")
    with pytest.raises(OptionError, match="of the case 001"):
        run(predict, slides, "--model", trained / "model.safetensors", "--output", output)


class _Listener:
    """Counts slides, and how many were known before."""

    def __init__(self) -> None:
        self.slides: list[bool] = []

    def started(self, total: int) -> None:
        pass

    def running(self, slides: object) -> None:
        pass

    def finished(self, result: SlideResult, *, reused: bool) -> None:
        self.slides.append(reused)


def test_predicting_that_was_stopped_writes_no_submission_and_goes_on(
    trained: Path, cohort: Path, tmp_path: Path
) -> None:
    options = BatchOptions(region_classes=("Tumor",), score=ScoreOptions(composites=1), slides_at_once=1)
    submission = tmp_path / "submission.csv"
    first, second = _Listener(), _Listener()
    with Scorer.load(trained / "model.safetensors", Compute("cpu", "fp32"), 1) as scorer:

        def go(listener: _Listener, stop: Callable[[], bool]) -> None:
            with ThreadExecutor(scorer, 1) as executor:
                predict_slides(
                    open_collection(cohort),
                    executor,
                    options,
                    submission=submission,
                    listener=listener,
                    cancelled=stop,
                )

        with pytest.raises(CancelledError, match="same command"):
            go(first, lambda: len(first.slides) >= 3)
        assert not submission.exists()
        go(second, lambda: False)
    assert 3 <= sum(second.slides) < len(second.slides) == 10
    assert len(read_submission(submission).case_ids) == 10
    assert (tmp_path / "submission-results" / "results.json").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGINT to one process")
def test_ctrl_c_leaves_a_run_that_can_go_on_and_says_so(cohort: Path, tmp_path: Path) -> None:
    labels = ["--labels", str(cohort / "labels.csv"), "--output", str(tmp_path), "--folds", "2"]
    code = "from bridge.commands.train import command; command()"
    arguments = [sys.executable, "-c", code, str(cohort), *labels, *_QUICK, "--epochs", "5000"]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env={**os.environ}) as process:
        assert process.stderr is not None
        while not (line := process.stderr.readline()).startswith("training"):
            assert line, "it ended before it trained"
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 1
    assert "Training stopped at step" in rest and "same command again" in rest
    assert not (tmp_path / "fold-1" / "model.safetensors").exists()
