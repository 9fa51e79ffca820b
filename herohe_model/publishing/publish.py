"""A model and all that belongs to it, written into a folder that can be given away."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from herohe_model.errors import ModelFileError, OptionError, os_problem
from herohe_model.evaluation.page import page
from herohe_model.evaluation.schema import Evaluation, LeftOut, from_json, to_json
from herohe_model.files import WriteError, sha256_of
from herohe_model.model.card import ModelCard, read_card
from herohe_model.model.library import MANIFEST, MODEL, FileDigest, Manifest, encode_manifest
from herohe_model.publishing.golden import GOLDEN, golden_logits
from herohe_model.publishing.readme import PageFacts, model_page
from herohe_model.publishing.terms import choose_licence, terms_of

PAGE: Final = "README.md"
_EVALUATION: Final = ("evaluation.json", "evaluation.html")
_MAX_BYTES: Final = 256 << 20


@dataclass(frozen=True)
class Publication:
    """What the publisher says, beside what model and evaluation say.

    Attributes
    ----------
    licence
        As the Hugging Face hub names it; None for the first that is permitted.
    terms
        A table of terms of the publisher's own.
    permission
        Who permitted what the terms leave open, in words.
    contact
        Whom to write to.
    """

    licence: str | None = None
    terms: Path | None = None
    permission: str = ""
    contact: str = ""


def publish_model(model: Path, to: Path, said: Publication, *, evaluation: Path | None = None) -> Manifest:
    """Write a published folder, whole or not at all.

    Of the evaluation, what is said of single cases is left out: their names are not the publisher's to give.

    Parameters
    ----------
    to
        Must not be there, or be empty.
    evaluation
        An ``evaluation.json`` of this model, or its folder; None for that of its training, beside it.

    Raises
    ------
    TermsError
        If cohort and network do not permit it.
    ModelFileError
        If it is no trained model, or there is no evaluation of it.
    OptionError
        If `to` holds something.
    """
    card, sha256 = read_card(model)
    if card.knowledge != "trained":
        raise ModelFileError(
            f"{model} is not published: its card says {card.knowledge}, not that it was trained on slides",
            "Publish a model of herohe-bridge train",
        )
    found, out_of_fold = _evaluation(evaluation or model.parent, card, sha256)
    cohorts, networks = terms_of(card, said.terms)
    licence = choose_licence([*cohorts, *networks], said.licence, said.permission)
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise OptionError(f"{to} exists already", "Name a folder that is not there, or is empty")
    public = msgspec.structs.replace(found, lines=(), left_out=LeftOut())
    facts = PageFacts(sha256, licence, out_of_fold, cohorts, networks, said.permission, said.contact)
    files = {
        PAGE: model_page(card, public, facts).encode(),
        "evaluation.json": to_json(public),
        "evaluation.html": page(public).encode(),
        GOLDEN: msgspec.json.format(msgspec.json.encode(golden_logits(model)), indent=1) + b"\n",
    }
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{to.name}-", dir=to.parent) as part:
            folder = Path(part, "folder")
            folder.mkdir()
            shutil.copyfile(model, folder / MODEL)
            for name, data in files.items():
                (folder / name).write_bytes(data)
            manifest = Manifest(name=card.name, licence=licence, files=_digests(folder))
            if manifest.files[MODEL].sha256 != sha256:
                raise ModelFileError(f"{model} changed while it was published", "Try again")
            (folder / MANIFEST).write_bytes(encode_manifest(manifest))
            if to.exists():
                to.rmdir()
            os.replace(folder, to)
    except OSError as error:
        raise WriteError(os_problem(error), "Check the free space and the folder's rights") from error
    return manifest


def _evaluation(where: Path, card: ModelCard, sha256: str) -> tuple[Evaluation, bool]:
    """Return an evaluation of a model, and whether it is that of its training."""
    path = where / _EVALUATION[0] if where.is_dir() else where
    how = "Publish from the folder of its training, or name that of herohe-bridge evaluate with --evaluation"
    try:
        with path.open("rb") as file:
            found = from_json(file.read(_MAX_BYTES))
    except OSError as error:
        raise ModelFileError(f"There is no evaluation of {card.name}: {os_problem(error)}", how) from error
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} is no evaluation: {error}", how) from error
    if card.metrics.get("out_of_fold") == found.figures():
        return found, True
    if sha256[:12] in found.model.split():
        return found, False
    raise ModelFileError(f"{path} is not of {card.name}: it has neither its figures nor its SHA-256", how)


def _digests(folder: Path) -> dict[str, FileDigest]:
    return {
        path.name: FileDigest(str(sha256_of(path)), path.stat().st_size) for path in sorted(folder.iterdir())
    }
