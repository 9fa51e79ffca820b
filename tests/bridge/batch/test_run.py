from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import pytest
from helpers.damaged_slides import flip_a_bit_of_a_count, make_deadly
from helpers.small_slides import drawn, immunostained_picture, small_model, small_slide

from bridge.annotations.geojson_writing import write_annotations
from bridge.batch.options import BatchOptions
from bridge.batch.plan import plan_batch
from bridge.batch.run import BatchSummary, run_batch
from bridge.commands.report import report_line
from bridge.projects.open import open_collection
from bridge.results.files import ResultFileError, read_json
from bridge.results.schema import Outcome, SlideResult
from bridge.scoring.options import ScoreOptions
from bridge.scoring.progress import Progress
from herohe_model.engines.scorer import Scorer
from herohe_model.model.compute import Compute
from herohe_model.synthetic.slides import write_tiff

OPTIONS = BatchOptions(region_classes=("Tumor",), score=ScoreOptions(composites=3))


@dataclass
class Ear:
    """A listener that remembers."""

    total: int = 0
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    reused: list[str] = field(default_factory=list)

    def started(self, total: int) -> None:
        self.total = total

    def running(self, slides: Sequence[tuple[str, Progress]]) -> None: ...

    def finished(self, result: SlideResult, *, reused: bool) -> None:
        self.outcomes[result.slide] = result.outcome
        if reused:
            self.reused.append(result.slide)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("model") / "m.safetensors")


@pytest.fixture(scope="module")
def scorer(model: Path) -> Iterator[Scorer]:
    scorer = Scorer.load(model, Compute("cpu", "fp32"))
    yield scorer
    scorer.close()


def a_folder(home: Path, count: int = 3) -> Path:
    """Slides with one tumour annotation each."""
    home.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        slide = small_slide(home / f"s{number}.tif", seed=number)
        write_annotations(slide, [drawn(64, 64, 256, 320)])
    return home


def run(
    folder: Path,
    scorer: Scorer,
    ear: Ear,
    options: BatchOptions = OPTIONS,
    *,
    restart: bool = False,
    cancelled: Callable[[], bool] = lambda: False,
) -> BatchSummary:
    return run_batch(
        open_collection(folder),
        scorer,
        options,
        output=folder / "out",
        listener=ear,
        restart=restart,
        cancelled=cancelled,
    )


def test_every_slide_has_an_outcome_and_a_line(tmp_path: Path, scorer: Scorer) -> None:
    ear = Ear()
    summary = run(a_folder(tmp_path / "p"), scorer, ear)
    assert ear.total == 3 and set(ear.outcomes.values()) == {Outcome.SCORED}
    assert summary.exit_code == 0 and summary.outcomes == {Outcome.SCORED: 3}
    assert len((tmp_path / "p/out/results.csv").read_text(encoding="utf-8").splitlines()) == 4
    assert [r.slide for r in read_json(tmp_path / "p/out/results.json")] == sorted(ear.outcomes)


def test_a_slide_of_another_stain_is_skipped_and_alone_it_is_a_failure(
    tmp_path: Path, scorer: Scorer
) -> None:
    folder = a_folder(tmp_path / "p", 1)
    write_tiff(folder / "brown.tif", immunostained_picture(512), mpp=0.5, tile=128)
    write_annotations(folder / "brown.tif", [drawn(64, 64, 256, 320)])
    summary = run(folder, scorer, Ear())
    assert summary.outcomes == {Outcome.SCORED: 1, Outcome.UNSUITABLE: 1} and summary.exit_code == 0
    assert ",unsuitable," in (folder / "out/results.csv").read_text(encoding="utf-8")
    (folder / "s0.tif").unlink()
    assert run(folder, scorer, Ear()).exit_code == 1
    planned = list(plan_batch(open_collection(folder), scorer.info.card, OPTIONS))
    assert "does not look like H&E" in planned[0].problem


def test_a_class_that_no_slide_has_is_one_sentence_and_a_failure(tmp_path: Path, scorer: Scorer) -> None:
    folder = a_folder(tmp_path / "p", 2)
    summary = run(folder, scorer, Ear(), replace(OPTIONS, region_classes=("tumor",)))
    assert summary.outcomes == {Outcome.NO_MATCHING_ANNOTATION: 2} and summary.exit_code == 1
    assert len(summary.unmatched_regions) == 1 and summary.unmatched_regions[0].endswith("mean Tumor?")
    both = run(folder, scorer, Ear(), replace(OPTIONS, exclude_classes=("necrosis",)))
    assert both.outcomes == {Outcome.SCORED: 2} and both.exit_code == 0
    assert len(both.unmatched_exclusions) == 1


def test_a_second_run_scores_nothing_and_gives_the_same_bytes(tmp_path: Path, scorer: Scorer) -> None:
    folder = a_folder(tmp_path / "p")
    run(folder, scorer, Ear())
    before = {name: (folder / "out" / name).read_bytes() for name in ("results.csv", "results.json")}
    ear = Ear()
    summary = run(folder, scorer, ear)
    assert summary.reused == 3 and summary.written == 0 and len(ear.reused) == 3
    assert before == {name: (folder / "out" / name).read_bytes() for name in before}


def test_only_a_changed_annotation_is_scored_again(tmp_path: Path, scorer: Scorer) -> None:
    folder = a_folder(tmp_path / "p")
    run(folder, scorer, Ear())
    write_annotations(folder / "s1.tif", [drawn(96, 64, 256, 320)])
    ear = Ear()
    summary = run(folder, scorer, ear)
    assert sorted(ear.reused) == ["s0.tif", "s2.tif"] and summary.written == 1


def test_other_options_are_other_work_and_restart_forgets(tmp_path: Path, scorer: Scorer) -> None:
    folder = a_folder(tmp_path / "p", 1)
    run(folder, scorer, Ear())
    other = msgspec.structs.replace(OPTIONS.score, seed=4)
    assert run(folder, scorer, Ear(), BatchOptions(("Tumor",), score=other)).reused == 0
    assert run(folder, scorer, Ear()).reused == 1
    assert run(folder, scorer, Ear(), restart=True).reused == 0


def test_bad_slides_are_named_and_stop_nobody(tmp_path: Path, scorer: Scorer) -> None:
    folder = a_folder(tmp_path / "p", 2)
    whole = small_slide(folder / "truncated.tif", seed=8)
    whole.write_bytes(whole.read_bytes()[:2000])
    (folder / "text.svs").write_text("no slide")
    small_slide(folder / "scaleless.tif", mpp=None)
    write_annotations(folder / "scaleless.tif", [drawn(64, 64, 256, 320)])
    glass = small_slide(folder / "glass.tif")
    write_annotations(glass, [drawn(0, 0, 512, 32)])
    small_slide(folder / "undrawn.tif")
    broken = small_slide(folder / "broken.tif")
    write_annotations(broken, [drawn(0, 0, 9, 9)]).write_text("{ not json")
    ear = Ear()
    summary = run(folder, scorer, ear)
    assert ear.outcomes == {
        "s0.tif": Outcome.SCORED,
        "s1.tif": Outcome.SCORED,
        "truncated.tif": Outcome.UNREADABLE,
        "text.svs": Outcome.UNREADABLE,
        "scaleless.tif": Outcome.UNREADABLE,
        "glass.tif": Outcome.INSUFFICIENT_TISSUE,
        "undrawn.tif": Outcome.NO_MATCHING_ANNOTATION,
        "broken.tif": Outcome.FAILED,
    }
    assert summary.exit_code == 1
    messages = {r.slide: r.message for r in read_json(folder / "out" / "results.json")}
    assert "--mpp" in messages["scaleless.tif"] and "truncated.tif" in messages["truncated.tif"]
    assert all(messages[name] for name in messages if name not in ("s0.tif", "s1.tif"))


def test_slides_that_end_who_reads_them_stop_nobody_and_are_not_read_again(
    tmp_path: Path, scorer: Scorer
) -> None:
    folder = a_folder(tmp_path / "p", 5)
    at_open, in_a_patch = folder / "s1.tif", folder / "s3.tif"
    good = in_a_patch.read_bytes()
    flip_a_bit_of_a_count(at_open)
    make_deadly(in_a_patch, index=5)
    ear = Ear()
    assert run(folder, scorer, ear).exit_code == 1
    bad = {"s1.tif": Outcome.UNREADABLE, "s3.tif": Outcome.UNREADABLE}
    assert ear.outcomes == {f"s{n}.tif": Outcome.SCORED for n in range(5)} | bad
    messages = {r.slide: r.message for r in read_json(folder / "out" / "results.json")}
    assert "claims a tile of" in messages["s1.tif"] and "ends every process" in messages["s3.tif"]
    assert "--restart" in messages["s3.tif"]
    again = Ear()
    run(folder, scorer, again)
    assert again.outcomes == ear.outcomes and set(again.reused) == set(ear.outcomes) - {"s1.tif"}
    in_a_patch.write_bytes(good)
    run(folder, scorer, mended := Ear())
    assert mended.outcomes["s3.tif"] is Outcome.SCORED


def test_a_slide_mended_after_a_failure_is_scored_by_the_next_run(tmp_path: Path, scorer: Scorer) -> None:
    folder = a_folder(tmp_path / "p", 2)
    good = (folder / "s1.tif").read_bytes()
    (folder / "s1.tif").write_bytes(good[:2000])
    assert run(folder, scorer, Ear()).exit_code == 1
    (folder / "s1.tif").write_bytes(good)
    ear = Ear()
    assert run(folder, scorer, ear).exit_code == 0
    assert ear.reused == ["s0.tif"]


def test_cancelling_keeps_what_is_done_and_the_next_run_goes_on(tmp_path: Path, scorer: Scorer) -> None:
    folder = a_folder(tmp_path / "p", 4)
    undisturbed = a_folder(tmp_path / "q", 4)
    run(undisturbed, scorer, Ear())
    ear = Ear()
    summary = run(folder, scorer, ear, cancelled=lambda: Outcome.SCORED in ear.outcomes.values())
    assert summary.exit_code == 1
    assert Outcome.CANCELLED in ear.outcomes.values() and len(ear.outcomes) == 4
    assert run(folder, scorer, Ear()).exit_code == 0
    assert (folder / "out/results.json").read_bytes() == (undisturbed / "out/results.json").read_bytes()


def test_slides_that_were_not_begun_are_reported_in_order_and_not_read(
    tmp_path: Path, scorer: Scorer
) -> None:
    folder = a_folder(tmp_path / "p", 4)
    (folder / "text.svs").write_text("no slide")
    ear = Ear()
    summary = run(folder, scorer, ear, cancelled=lambda: True)
    assert summary.outcomes == {Outcome.CANCELLED: 5}
    assert list(ear.outcomes) == ["s0.tif", "s1.tif", "s2.tif", "s3.tif", "text.svs"]
    found = read_json(folder / "out" / "results.json")
    assert [result.slide for result in found] == list(ear.outcomes)
    assert {result.message for result in found} == {
        "Not begun: the run was cancelled. Give the same command again."
    }


def test_a_dry_run_counts_and_changes_no_byte(tmp_path: Path, scorer: Scorer) -> None:
    folder = a_folder(tmp_path / "p", 2)
    (folder / "text.svs").write_text("no slide")
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    planned = {s.slide: s for s in plan_batch(open_collection(folder), scorer.info.card, OPTIONS)}
    assert planned["s0.tif"].patches_foreground == 80 and not planned["s0.tif"].problem
    assert "text.svs" in planned["text.svs"].problem
    assert before == {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def command(folder: Path, model: Path) -> list[str]:
    arguments = ["score", str(folder), "--model", str(model), "--region-class", "Tumor", "--device", "cpu"]
    arguments += ["--precision", "fp32"]
    return [sys.executable, "-m", "bridge", *arguments, "--composites", "3", "--output", str(folder / "out")]


def test_the_command_scores_a_folder_through_a_server_of_its_own(
    tmp_path: Path, scorer: Scorer, model: Path
) -> None:
    folder, beside = a_folder(tmp_path / "a folder"), a_folder(tmp_path / "q")
    env = os.environ | {"HEROHE_RUNTIME_DIR": str(tmp_path / "run")}
    done = subprocess.run(command(folder, model), capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    assert "3 scored" in done.stdout and "Research use only" in done.stdout
    assert done.stdout.endswith(f"To look through the results: {report_line(folder / 'out')}\n")
    run(beside, scorer, Ear())
    over_zeromq = json.loads((folder / "out/results.json").read_bytes())
    in_process = json.loads((beside / "out/results.json").read_bytes())
    assert over_zeromq == in_process


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path: Path, model: Path) -> None:
    folder, undisturbed = a_folder(tmp_path / "p", 6), a_folder(tmp_path / "q", 6)
    env = os.environ | {"HEROHE_RUNTIME_DIR": str(tmp_path / "run")}
    subprocess.run(command(undisturbed, model), capture_output=True, env=env, check=True)
    with subprocess.Popen(command(folder, model), stderr=subprocess.PIPE, text=True, env=env) as victim:
        assert victim.stderr is not None
        for line in victim.stderr:
            if "s1.tif" in line and "scored" in line:
                break
        victim.send_signal(signal.SIGKILL)
    done = subprocess.run(command(folder, model), capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    assert "known from an earlier run" in done.stderr
    for name in ("results.csv", "results.json"):
        assert (folder / "out" / name).read_bytes() == (undisturbed / "out" / name).read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_no_text_are_one_outcome_and_stop_nothing(tmp_path: Path, scorer: Scorer) -> None:
    folder = a_folder(tmp_path / "home", 1)
    small_slide(folder / os.fsdecode(b"lat\xe9n.tif"))
    (folder / "gone.tif").symlink_to(folder / "nowhere.tif")
    summary = run(folder, scorer, ear := Ear())
    assert ear.outcomes == {
        **{"gone.tif": Outcome.UNREADABLE, "lat\\xe9n.tif": Outcome.UNREADABLE, "s0.tif": Outcome.SCORED}
    }
    assert summary.exit_code == 1
    stored = {r.slide: r.message for r in read_json(folder / "out" / "results.json")}
    assert "Rename it" in stored["lat\\xe9n.tif"]
    planned = {
        slide.slide: slide.problem for slide in plan_batch(open_collection(folder), scorer.info.card, OPTIONS)
    }
    assert "Rename it" in planned["lat\\xe9n.tif"]
    assert planned["s0.tif"] == ""


def test_an_output_folder_that_vanishes_is_said_and_not_made_again(tmp_path: Path, scorer: Scorer) -> None:
    folder = a_folder(tmp_path / "home", 2)
    output = folder / "out"

    class Thief(Ear):
        def finished(self, result: SlideResult, *, reused: bool) -> None:
            if not self.outcomes:
                output.rename(tmp_path / "taken")
            super().finished(result, reused=reused)

    one_by_one = replace(OPTIONS, slides_at_once=1)
    with pytest.raises(ResultFileError, match=r"results\.csv cannot be written"):
        run(folder, scorer, ear := Thief(), one_by_one)
    assert Outcome.SCORED in ear.outcomes.values()
    assert not (output / "results.json").exists()


def test_a_folder_that_cannot_be_made_has_its_own_words(tmp_path: Path, scorer: Scorer) -> None:
    folder = a_folder(tmp_path / "home", 1)
    (folder / "out").write_text("a file where a folder must be")
    with pytest.raises(ResultFileError, match=r"out cannot be made \(File exists\)"):
        run(folder, scorer, Ear())
