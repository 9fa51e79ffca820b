"""What lies in a download: the slides of a cohort, their outlines, and what is known of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from herohe_model.dataset.cases import case_id
from herohe_model.dataset.labels import LabelError, read_labels
from herohe_model.dataset.tables import Table, TableError, read_table

Facts = Mapping[str, str]
"""Columns of ``labels.csv`` by name."""

_TABLES: Final = (".csv", ".txt", ".tsv", ".xlsx")
_MISSING: Final = frozenset(["", "indeterminate", "equivocal", "unknown", "not performed"])
_SAMPLE: Final = re.compile(r"^(TCGA-(\w{2})-\w{4})-(\d{2})", re.IGNORECASE)
_TUMOUR: Final = range(1, 10)
"""TCGA's sample types of tumour; 10 to 29 are normal tissue and controls."""


@dataclass(frozen=True)
class FoundSlide:
    """A slide of a cohort.

    Attributes
    ----------
    path
        Its file; a picture where that is what the cohort gives out.
    case
        Its case, the name of its file without the extension.
    split
        ``train`` or ``test``.
    outline
        The file of its outlines; None where there is none.
    facts
        What the cohort says of it.
    """

    path: Path
    case: str
    split: str
    outline: Path | None
    facts: Facts


@dataclass
class Found:
    """What a download holds.

    Attributes
    ----------
    missing
        What was looked for and is not there, in sentences.
    left_out
        Slides that are not taken, and why, in sentences.
    mpp
        Scale of slides that are pictures, µm/px, and where it comes from; None where files say it.
    """

    slides: list[FoundSlide] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    mpp: tuple[float, str] | None = None


def find(cohort: str, download: Path) -> Found:
    """Look through a download.

    Parameters
    ----------
    cohort
        Its name, as :func:`bridge.cohorts.known.known_cohorts` has it.
    """
    return _FINDERS[cohort](download, _files(download))


def _herohe(download: Path, files: Sequence[Path]) -> Found:
    found = Found()
    labels: dict[tuple[str, str], Facts] = {}
    for path in _of_kind(files, _TABLES):
        try:
            read = read_labels(path, split=_split_of(path, download))
        except (TableError, LabelError) as error:
            found.left_out.append(f"{path.name} is no table of labels: {str(error).splitlines()[0]}")
            continue
        for labelled in read.cases:
            said = {
                "ihc": labelled.ihc or "",
                "ish": labelled.ish or "",
                "status": (labelled.status or "").removeprefix("HER2-"),
                "laboratory": labelled.laboratory or "",
            }
            known = labels.get(labelled.key, {})
            labels[labelled.key] = {key: value or known.get(key, "") for key, value in said.items()}
    for path in _of_kind(files, (".mrxs",)):
        split = _split_of(path, download)
        if not path.with_suffix("").is_dir():
            found.missing.append(f"{path.name} has no folder of its pixels beside it: unpack it again.")
            continue
        case = case_id(path.name)
        facts = labels.pop((split, case), {})
        if not facts:
            found.missing.append(f"No label of the {split} case {case}.")
        found.slides.append(FoundSlide(path, case, split, None, facts))
    found.missing += [f"No slide of the {split} case {case}." for split, case in labels]
    return found


def _bcnb(_: Path, files: Sequence[Path]) -> Found:
    found = Found(mpp=(0.5, "20x by the cohort's description; nominal, not measured"))
    table = _table(files, ("patient id", "her2 expression"))
    facts = {} if table is None else {row["patient id"]: row for row in _rows(table)}
    if table is None:
        found.missing.append("patient-clinical-data.xlsx, the table of labels.")
    official = {}
    for name in ("train", "val", "test"):
        lists = [path for path in _of_kind(files, (".txt",)) if path.name == f"{name}_id.txt"]
        for word in " ".join(path.read_text(encoding="utf-8", errors="replace") for path in lists).split():
            official[case_id(word)] = name
    if not official:
        found.missing.append("train_id.txt, val_id.txt and test_id.txt: all slides are taken for training.")
    for path in _of_kind(files, (".jpg", ".jpeg")):
        case = case_id(path.stem)
        row = facts.pop(case, None)
        outline = path.with_suffix(".json")
        if row is None:
            found.missing.append(f"No label of {path.name}.")
        if not outline.is_file():
            found.missing.append(f"No outline of {path.name}.")
        said = row or {}
        found.slides.append(
            FoundSlide(
                path,
                case,
                "test" if official.get(case) == "test" else "train",
                outline if outline.is_file() else None,
                {
                    "patient": case,
                    "ihc": said.get("her2 expression", ""),
                    "status": said.get("her2", ""),
                    "er": said.get("er", ""),
                    "pr": said.get("pr", ""),
                    "tumour grade": said.get("histological grading", ""),
                    "age": said.get("age", ""),
                    "official split": official.get(case, ""),
                },
            )
        )
    found.missing += [f"No slide of patient {case}." for case in facts]
    return found


def _yale(_: Path, files: Sequence[Path]) -> Found:
    found = Found()
    table = _table(files, ("slide", "clinical.her2.status"))
    of_tcga = {} if table is None else {row["slide"]: row["clinical.her2.status"] for row in _rows(table)}
    if table is None:
        found.missing.append("The table of TCGA's slides (columns Slide, Clinical.HER2.status).")
    outlines = {path.stem: path for path in _of_kind(files, (".xml",))}
    for path in _of_kind(files, (".svs",)):
        name = path.stem.partition(".")[0]
        outline = outlines.get(path.stem) or outlines.get(name)
        sample = _SAMPLE.match(name)
        if path.name.lower().startswith(("her2pos", "her2neg")):
            status = "positive" if path.name.lower().startswith("her2pos") else "negative"
            facts = {"patient": name, "status": status, "site": "Yale"}
            split = "train"
        elif sample:
            split = "test"
            status = of_tcga.get(path.stem) or of_tcga.get(name) or of_tcga.get(path.name) or ""
            facts = {"patient": sample[1].upper(), "status": _word(status), "site": sample[2].upper()}
            if not status:
                found.missing.append(f"No status of {path.name}.")
        else:
            found.left_out.append(f"{path.name}: its label is the response to treatment, not the status.")
            continue
        if outline is None:
            found.missing.append(f"No outline of {path.name}.")
        found.slides.append(FoundSlide(path, case_id(path.name), split, outline, facts))
    return found


def _tcga(_: Path, files: Sequence[Path]) -> Found:
    found = Found()
    table = _table(files, ("bcr_patient_barcode", "her2_status_by_ihc"))
    if table is None:
        found.missing.append("nationwidechildrens.org_clinical_patient_brca.txt, the table of labels.")
    # Below the header stand two more, of other names.
    rows = (
        [] if table is None else [r for r in _rows(table) if _SAMPLE.match(f"{r['bcr_patient_barcode']}-01")]
    )
    facts = {row["bcr_patient_barcode"].upper(): row for row in rows}
    for path in _of_kind(files, (".svs",)):
        sample = _SAMPLE.match(path.name)
        if sample is None:
            found.left_out.append(f"{path.name}: its name is no barcode.")
            continue
        if int(sample[3]) not in _TUMOUR:
            found.left_out.append(f"{path.name}: normal tissue or a control (sample type {sample[3]}).")
            continue
        row = facts.get(sample[1].upper())
        if row is None:
            found.missing.append(f"No label of {path.name}.")
        said = row or {}
        ihc, ish = said.get("her2_ihc_score", ""), _word(said.get("her2_fish_status", ""))
        found.slides.append(
            FoundSlide(
                path,
                case_id(path.name),
                "train",
                None,
                {
                    "patient": sample[1].upper(),
                    "ihc": _word(ihc),
                    "ish": ish,
                    "status": _word(said.get("her2_status_by_ihc", "")) or ish,
                    "er": _word(said.get("er_status_by_ihc", "")),
                    "pr": _word(said.get("pr_status_by_ihc", "")),
                    "site": sample[2].upper(),
                },
            )
        )
    return found


_FINDERS: Final[dict[str, Callable[[Path, Sequence[Path]], Found]]] = {
    "herohe": _herohe,
    "bcnb": _bcnb,
    "yale": _yale,
    "tcga": _tcga,
}


def _word(text: str) -> str:
    """Return what a cell says, "" for what stands for nothing, such as ``[Not Available]``."""
    plain = text.strip()
    return "" if plain.startswith("[") or plain.lower() in _MISSING else plain


def _split_of(path: Path, download: Path) -> str:
    """Return the split that a file's name, or a folder's, speaks of."""
    below = path.relative_to(download).as_posix().lower()
    return "test" if "test" in below else "train"


def _files(folder: Path) -> list[Path]:
    """Return the files below a folder, in the order of their names, hidden ones left out."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if not any(part.startswith(".") for part in path.relative_to(folder).parts) and path.is_file()
    ]


def _of_kind(files: Sequence[Path], suffixes: tuple[str, ...]) -> Iterator[Path]:
    return (path for path in files if path.suffix.lower() in suffixes)


def _table(files: Sequence[Path], columns: tuple[str, ...]) -> Table | None:
    """Return the first table with some columns, whatever it is called."""
    for path in _of_kind(files, _TABLES):
        try:
            table = read_table(path)
        except TableError:
            continue
        if {name.strip().lower() for name in table.header} >= set(columns):
            return table
    return None


def _rows(table: Table) -> Iterator[dict[str, str]]:
    """Yield the rows by the columns' names, in small letters."""
    names = [name.strip().lower() for name in table.header]
    for row in table.rows:
        yield dict(zip(names, (cell.strip() for cell in row.cells), strict=False))
