"""The whole way from a cohort's download to a result in a real QuPath, for each public cohort's form.

Draws small downloads of the forms of HEROHE, BCNB, HER2-TUMOR-ROIS and TCGA-BRCA, and does with each what
docs/cohorts.md says, by the command line alone: prepare, check, train on composites, extract features, train
a bag, predict, evaluate, publish, get, and score by the model's name, in QuPath and from outside. Prints how
long each step took, and stops where one fails or the two results differ.

    python tests/benchmarks/walk.py [--cohorts bcnb yale ...] [--slides 24]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.qupath_process import installed_qupath
from helpers.qupath_projects import MadeProject, described, ours
from helpers.small_encoders import small, write_table, write_weights
from helpers.synthetic_cohort import MPP, CohortRules, CohortSlide, make_cohort
from numpy.typing import NDArray

from bridge.qupath.jvm import start_qupath
from herohe_model.slides.slide import Slide
from herohe_model.synthetic.slides import write_mirax, write_tiff

STATUS = {True: "Positive", False: "Negative"}
TITLES = {"herohe": "HEROHE", "bcnb": "BCNB", "yale": "Yale", "tcga": "TCGA"}
LICENSED = {"herohe": ("--permission", "the organisers, by letter of today (drawn slides)")}


def rings(slide: CohortSlide) -> list[list[tuple[float, float]]]:
    """Return the tumour's outlines."""
    geometry = slide.slide.geometry
    assert geometry is not None
    return [list(part.exterior.coords) for part in getattr(geometry, "geoms", [geometry])]


def picture_of(slide: CohortSlide) -> NDArray:  # type: ignore[type-arg]
    """Return the pixels of a slide."""
    with Slide(slide.slide.path) as source:
        return source.read_box(0, 0, *source.size, source.size)


def aperio(path: Path, slide: CohortSlide) -> None:
    """Write outlines as ImageScope does."""
    regions = "".join(
        f'<Region NegativeROA="0"><Vertices>{"".join(f"""<Vertex X="{x}" Y="{y}"/>""" for x, y in ring)}'
        "</Vertices></Region>"
        for ring in rings(slide)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<Annotations><Annotation><Regions>{regions}</Regions></Annotation></Annotations>")


def svs(path: Path, slide: CohortSlide) -> None:
    """Write a slide with the suffix of Aperio's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tiff(path.with_suffix(".tif"), picture_of(slide), mpp=MPP)
    path.with_suffix(".tif").rename(path)


def is_test(number: int) -> bool:
    """Whether a slide is of the test split."""
    return number % 4 == 3


def herohe(folder: Path, slides: list[CohortSlide]) -> None:
    """Draw HEROHE's form."""
    lines = {
        split: ["Case;Immunohistochemistry;ISH Group;Final Result (Ground truth)"]
        for split in ("Training", "Test")
    }
    for number, slide in enumerate(slides, start=1):
        split = "Test" if is_test(number) else "Training"
        (folder / split).mkdir(parents=True, exist_ok=True)
        write_mirax(folder / split / f"{number}.mrxs", picture_of(slide), mpp=MPP)
        case = slide.slide.case
        ish = {"positive": "1", "negative": "5", None: ""}[case.ish]
        lines[split].append(f"{number};{(case.ihc or '').rstrip('+')};{ish};{STATUS[bool(case.positive)]}")
    for split, rows in lines.items():
        (folder / split / f"{split.lower()}.csv").write_text("\n".join(rows) + "\n")


def bcnb(folder: Path, slides: list[CohortSlide]) -> None:
    """Draw BCNB's form."""
    from openpyxl import Workbook

    book = Workbook()
    book.active.append(["Patient ID", "Age", "ER", "PR", "HER2", "HER2 Expression", "Histological grading"])
    ids: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    (folder / "WSIs").mkdir(parents=True)
    for number, slide in enumerate(slides, start=1):
        Image.fromarray(picture_of(slide)).save(folder / "WSIs" / f"{number}.jpg", quality=92)
        drawn = {"positive": [{"vertices": ring} for ring in rings(slide)], "negative": []}
        (folder / "WSIs" / f"{number}.json").write_text(json.dumps(drawn))
        case = slide.slide.case
        status, er = STATUS[bool(case.positive)], STATUS[number % 3 == 0]
        book.active.append([number, 40 + number, er, "Negative", status, case.ihc, 1 + number % 3])
        ids["test" if is_test(number) else "val" if number % 4 == 2 else "train"].append(str(number))
    book.save(folder / "patient-clinical-data.xlsx")
    (folder / "dataset-splitting").mkdir()
    for name, numbers in ids.items():
        (folder / "dataset-splitting" / f"{name}_id.txt").write_text("\n".join(numbers))


def yale(folder: Path, slides: list[CohortSlide]) -> None:
    """Draw the form of HER2-TUMOR-ROIS."""
    rows = ["Slide,Clinical.HER2.status"]
    for number, slide in enumerate(slides, start=1):
        positive = bool(slide.slide.case.positive)
        if is_test(number):
            part, name = "TCGA_BRCA_Filtered", f"TCGA-A1-A0{number:02d}-01Z-00-DX1"
            rows.append(f"{name},{STATUS[positive]}")
        else:
            part, name = "Yale_HER2_cohort", f"Her2{STATUS[positive][:3]}_Case_{number:02d}"
        svs(folder / part / "SVS" / f"{name}.svs", slide)
        aperio(folder / part / "Annotations" / f"{name}.xml", slide)
    (folder / "TCGA_BRCA_Filtered" / "table.csv").write_text("\n".join(rows) + "\n")


def tcga(folder: Path, slides: list[CohortSlide]) -> None:
    """Draw the form of TCGA-BRCA."""
    columns = (
        "bcr_patient_barcode",
        "er_status_by_ihc",
        "her2_status_by_ihc",
        "her2_ihc_score",
        "her2_fish_status",
    )
    rows = ["\t".join(columns), "\t".join(columns), "\t".join("CDE_ID" for _ in columns)]
    for number, slide in enumerate(slides, start=1):
        case = slide.slide.case
        patient = f"TCGA-{'AB'[number % 2]}1-A0{number:02d}"
        svs(folder / f"{patient}-01Z-00-DX1.{number}F.svs", slide)
        fish = {"positive": "Positive", "negative": "Negative", None: "[Not Evaluated]"}[case.ish]
        rows.append(
            "\t".join((patient, STATUS[number % 3 == 0], STATUS[bool(case.positive)], case.ihc or "", fish))
        )
    (folder / "nationwidechildrens.org_clinical_patient_brca.txt").write_text("\n".join(rows) + "\n")


FORMS: dict[str, Callable[[Path, list[CohortSlide]], None]] = {
    "herohe": herohe,
    "bcnb": bcnb,
    "yale": yale,
    "tcga": tcga,
}


class Walker:
    """Runs commands, and says how long each took."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment

    def __call__(self, *arguments: object, codes: tuple[int, ...] = (0,)) -> str:
        """Run a command; a wrong exit code ends everything."""
        began = time.perf_counter()
        words = [str(word) for word in arguments]
        done = subprocess.run(
            [sys.executable, "-m", "bridge", *words],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode not in codes:
            raise SystemExit(f"{' '.join(words)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        last = (done.stdout.strip().splitlines() or [""])[-1]
        print(f"  {time.perf_counter() - began:6.1f} s  {' '.join(words[:2])}: {last[:110]}", flush=True)
        return done.stdout


def walk(name: str, home: Path, slides: int) -> None:
    """Go the whole way with one cohort."""
    print(f"{name}:")
    encoder = msgspec.structs.replace(small(), name="mine", source="", licence="Apache-2.0", commercial="yes")
    environment = {
        **os.environ,
        "HEROHE_ENCODER_TABLE": str(write_table(home / "table.json", encoder)),
        "HEROHE_CACHE_DIR": str(home / "cache"),
        "HEROHE_MODELS": str(home / "models"),
    }
    run = Walker(environment)
    FORMS[name](
        home / "download", make_cohort(home / "drawn", slides, seed=5, rules=CohortRules(laboratories=1))
    )
    out = home / "out"
    run("cohort", "prepare", name, home / "download", "--output", out)
    run("cohort", "check", out, codes=(0, 1))
    outlined = any((out / "slides" / "train").glob("*.geojson"))
    inside = ("--region-class", "Tumor") if outlined else ()
    train, test, labels = out / "slides" / "train", out / "slides" / "test", out / "labels.csv"
    mpp = 0.5 if name == "bcnb" else MPP
    small_network = ("--backbone", "test_resnet", "--no-pretrained", "--patch-px", 32, "--mpp", mpp)
    quick = ("--epochs", 8, "--lr", 3e-3, "--folds", 2, "--device", "cpu")
    about = (
        "--labels",
        labels,
        "--cohort",
        {"herohe": "HEROHE", "bcnb": "BCNB", "yale": "Yale", "tcga": "TCGA"}[name],
    )
    run("train", train, *about, *inside, *small_network, *quick, "--output", home / "composites")
    weights = write_weights(home / "weights.safetensors", encoder)
    cut = ("--patch-px", 32, "--patch-mpp", mpp)
    run(
        "features",
        "extract",
        train,
        "--encoder",
        "mine",
        "--weights",
        weights,
        *cut,
        *inside,
        "--output",
        home / "f",
    )
    bags = ("--width", 16, "--epochs", 10, "--lr", 5e-3, "--folds", 2)
    run("train", "--features", home / "f", *about, *bags, "--output", home / "bags")
    terms = home / "terms.json"
    row = {"name": "mine", "said": "drawn by chance", "models": "yes", "facts_from": "here"}
    rest = [{**row, "name": "test_resnet"}]
    terms.write_text(json.dumps({"format": 1, "networks": [row, *rest]}))
    for kind in ("composites", "bags"):
        model = home / kind / "model.safetensors"
        if test.is_dir():
            run("predict", test, "--model", model, *inside, "--output", home / f"{kind}.csv")
            run(
                "evaluate",
                home / f"{kind}.csv",
                "--truth",
                labels,
                "--split",
                "test",
                "--output",
                home / f"e-{kind}",
            )
        published = home / f"published-{kind}"
        run("model", "publish", model, "--to", published, "--terms", terms, *LICENSED.get(name, ()))
        run("model", "get", published, "--name", f"{name}-{kind}")
        in_qupath(f"{name}-{kind}", home, next(iter(sorted(train.glob("*.[tms]*[!n]")))), run)


def in_qupath(model: str, home: Path, slide: Path, run: Walker) -> None:
    """Score a slide by the model's name, in QuPath and from outside; both must say the same."""
    began = time.perf_counter()
    folder = home / f"qupath-{model}"
    made = MadeProject(folder / "one")
    painter = made.add(slide)
    painter.annotate(painter.rectangle(60, 60, 500, 500), "Tumor")
    project = made.save()
    shutil.copytree(project.parent, folder / "two")
    before = dict(os.environ)
    os.environ.update(run.environment)
    try:
        (folder / "home").mkdir()
        with installed_qupath(start_qupath().directory, folder / "home", Path(model)) as inside:
            said = inside.script("herohe_score.groovy", project)
            inside.score(folder / "two" / project.name)
    finally:
        os.environ.clear()
        os.environ.update(before)
    one, two = described(project), described(folder / "two" / project.name)
    found = {name: ours(rows) for name, rows in one.items()}
    if one != two or not any(found.values()):
        raise SystemExit(f"{model}: QuPath and the command line differ\n{said.stdout}{said.stderr}")
    objects = sum(len(rows) for rows in found.values())
    print(
        f"  {time.perf_counter() - began:6.1f} s  in QuPath and outside: the same {objects} objects",
        flush=True,
    )


def main() -> None:
    """Walk with each cohort."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cohorts", nargs="*", choices=list(FORMS), default=list(FORMS))
    parser.add_argument("--slides", type=int, default=24)
    options = parser.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for name in options.cohorts:
            (Path(folder) / name).mkdir()
            walk(name, Path(folder) / name, options.slides)
    print(f"the whole way with {len(options.cohorts)} cohorts took {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
