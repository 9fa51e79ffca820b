"""A trained model published: what is in the folder, what is not, and which terms forbid it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner, Result

from bridge.cli import cli
from herohe_model.bag.card import with_golden
from herohe_model.bag.network import BagNetwork
from herohe_model.dataset.cases import Case
from herohe_model.dataset.predictions import Decision, Matched, Predictions
from herohe_model.errors import ModelFileError, OptionError
from herohe_model.evaluation.evaluate import evaluate
from herohe_model.evaluation.schema import Evaluation, from_json, to_json
from herohe_model.model.card import BagCard, ModelCard
from herohe_model.model.checkpoint import load_model, save_model
from herohe_model.model.new_model import new_model
from herohe_model.publishing.golden import GOLDEN
from herohe_model.publishing.terms import TermsError, choose_licence, terms_of


def out_of_fold() -> Evaluation:
    rng = np.random.default_rng(0)
    truth = np.arange(60) % 3 == 0
    p = np.round(np.clip(0.35 * truth + rng.random(60) * 0.65, 0, 1), 6)
    status = {True: "HER2-positive", False: "HER2-negative"}
    cases = tuple(Case("train", f"Secret{i}", None, None, status[bool(t)]) for i, t in enumerate(truth))
    predictions = Predictions(
        tuple(case.id for case in cases), p, p >= 0.5, decision=Decision(0.5, 0.5, 0.5, "chosen out of fold")
    )
    return evaluate(
        Matched(predictions, cases, ("Secret99",), ()), title="reader, out of fold", resamples=100
    )


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return out_of_fold()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, evaluation: Evaluation) -> Path:
    """A folder of a training, as far as publishing looks into it."""
    folder = tmp_path_factory.mktemp("run")
    card, state = new_model("test_resnet", head="ordered", target="ihc+ish", patch_px=32)
    save_model(folder / "model.safetensors", trained_card(card, evaluation), state)
    (folder / "evaluation.json").write_bytes(to_json(evaluation))
    return folder


def trained_card(card: ModelCard, evaluation: Evaluation, **fields: object) -> ModelCard:
    said = {
        "name": "reader: a 'test'",
        "knowledge": "trained",
        "cohort": "BCNB",
        "trained_on": "BCNB: 60 cases",
        "metrics": {"out_of_fold": evaluation.figures()},
        "learned": (">=2+/ISH+",),
        "note": "Drawn.",
    }
    return msgspec.structs.replace(card, **{**said, **fields})


def bag_card(encoder: str, evaluation: Evaluation, **fields: object) -> ModelCard:
    card, _ = new_model("test_resnet", head="free", target="ihc+ish", patch_px=224, mpp=0.5)
    bag = BagCard(pooling="attention", dimension=12, width=8, encoder=encoder)
    plain = msgspec.structs.replace(card, backbone="", grid=1, bag=bag)
    return trained_card(plain, evaluation, **fields)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["model", *(str(argument) for argument in arguments)])


def test_all_that_belongs_to_a_model_is_in_its_folder_and_comes_back(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEROHE_MODELS", str(tmp_path / "models"))
    done = run("publish", trained / "model.safetensors", "--to", tmp_path / "out")
    assert done.exit_code == 0, f"{done.output}{done.exception}"
    names = {"model.safetensors", "README.md", "evaluation.html", "evaluation.json", GOLDEN, "manifest.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert json.loads((tmp_path / "out/manifest.json").read_bytes())["licence"] == "cc-by-nc-4.0"
    got = run("get", tmp_path / "out", "--name", "reader")
    assert got.exit_code == 0, got.output
    verified = run("verify", "reader", "--device", "cpu", "--engine", "torch", "--precision", "fp32")
    assert "golden logits" in verified.output, f"{verified.output}{verified.exception}"


def test_the_page_says_figures_with_intervals_terms_and_limits(
    trained: Path, evaluation: Evaluation, tmp_path: Path
) -> None:
    run("publish", trained / "model.safetensors", "--to", tmp_path / "out")
    page = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    _, front, body = page.split("---\n", 2)
    lines = front.splitlines()
    assert 'license: "cc-by-nc-4.0"' in lines and "- name: \"reader: a 'test'\"" in lines
    f1 = evaluation.measure("f1")
    assert f'    - {{type: "f1", value: {f1.value:g}, name: "F1"}}' in lines
    assert f"| F1 | {f1.value:.3f} | {f1.low:.3f} to {f1.high:.3f} | 0.500 |" in body
    assert "Research use only, not for diagnosis" in body and "models trained on it may be given away" in body
    assert "It says nothing of 3+, >=2+, >=1+" in body
    assert load_model(trained / "model.safetensors")[2] in body


def test_no_case_is_published(trained: Path, tmp_path: Path) -> None:
    assert b"Secret" in (trained / "evaluation.json").read_bytes()
    run("publish", trained / "model.safetensors", "--to", tmp_path / "out")
    for file in (tmp_path / "out").iterdir():
        assert b"Secret" not in file.read_bytes(), file.name
    assert from_json((tmp_path / "out/evaluation.json").read_bytes()).cases == 60


def test_a_model_that_computes_something_else_is_told_by_its_golden_logits(
    trained: Path, tmp_path: Path
) -> None:
    run("publish", trained / "model.safetensors", "--to", tmp_path / "out")
    golden = json.loads((tmp_path / "out" / GOLDEN).read_bytes())
    golden["logits"][0] += 0.01 * max(1.0, *map(abs, golden["logits"]))
    (tmp_path / "out" / GOLDEN).write_text(json.dumps(golden), encoding="utf-8")
    told = run("verify", tmp_path / "out/model.safetensors", "--device", "cpu", "--engine", "torch")
    assert isinstance(told.exception, ModelFileError) and "where it was published" in str(told.exception)


def test_a_bag_model_is_published_without_its_encoder(evaluation: Evaluation, tmp_path: Path) -> None:
    card = bag_card("tcga-brca-dino", evaluation, cohort="Yale + TCGA")
    state = BagNetwork(card).state_dict()
    (tmp_path / "run").mkdir()
    save_model(tmp_path / "run/model.safetensors", with_golden(card, state), state)
    (tmp_path / "run/evaluation.json").write_bytes(to_json(evaluation))
    done = run("publish", tmp_path / "run/model.safetensors", "--to", tmp_path / "out")
    assert done.exit_code == 0, f"{done.output}{done.exception}"
    page = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert 'license: "gpl-3.0"' in page and "doi 10.7937/E65C-AM96" in page
    assert "Its encoder was trained on" in page


@pytest.mark.parametrize(
    ("cohort", "encoder", "permission", "expected"),
    [
        ("BCNB", "kaiko-vits16", "", "cc-by-nc-4.0"),
        ("yale", "hoptimus0", "", "cc-by-4.0"),
        ("TCGA and Yale", "tcga-brca-dino", "", "gpl-3.0"),
        ("BCNB", "tcga-brca-dino", "", "no licence permits both"),
        ("HEROHE", "hoptimus0", "", "its organisers have to"),
        ("HEROHE", "hoptimus0", "the organisers, by letter", "cc-by-nc-4.0"),
        ("Yale", "uni_v1", "", "forbids passing on what is derived"),
        ("Yale", "gigapath", "", "is not known"),
        ("our own", "hoptimus0", "", "terms of the cohort our own are not known"),
        ("", "hoptimus0", "", "does not say which cohort"),
    ],
)
def test_cohort_and_encoder_decide_the_licence(
    evaluation: Evaluation, cohort: str, encoder: str, permission: str, expected: str
) -> None:
    try:
        cohorts, networks = terms_of(bag_card(encoder, evaluation, cohort=cohort))
        found = choose_licence([*cohorts, *networks], None, permission)
    except TermsError as error:
        found = str(error)
    assert expected in found


def test_a_licence_that_gives_away_more_than_the_terms_is_refused(trained: Path, tmp_path: Path) -> None:
    asked = ("publish", trained / "model.safetensors", "--to", tmp_path / "out", "--licence")
    assert "Use one of cc-by-nc-4.0, cc-by-nc-sa-4.0" in str(run(*asked, "apache-2.0").exception)
    assert not (tmp_path / "out").exists()
    assert run(*asked, "cc-by-nc-sa-4.0").exit_code == 0
    again = run(*asked, "cc-by-nc-sa-4.0").exception
    assert isinstance(again, OptionError) and "exists already" in str(again)


def test_a_cohort_of_ones_own_has_terms_of_ones_own(evaluation: Evaluation, tmp_path: Path) -> None:
    own = {
        "name": "ours",
        "said": "our consent",
        "models": "no",
        "why": "patients said no",
        "facts_from": "us",
    }
    (tmp_path / "terms.json").write_text(json.dumps({"format": 1, "cohorts": [own]}), encoding="utf-8")
    cohorts, networks = terms_of(bag_card("hoptimus0", evaluation, cohort="Ours"), tmp_path / "terms.json")
    with pytest.raises(TermsError, match="patients said no"):
        choose_licence([*cohorts, *networks], None, "somebody")


def test_what_nobody_judged_or_trained_is_not_published(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    model = tmp_path / "run/model.safetensors"
    card, state, _ = load_model(model)
    (tmp_path / "run/evaluation.json").unlink()
    assert "There is no evaluation" in str(run("publish", model, "--to", tmp_path / "out").exception)
    shutil.copy(trained / "evaluation.json", tmp_path / "run")
    save_model(model, msgspec.structs.replace(card, metrics={}), state)
    assert "is not of reader" in str(run("publish", model, "--to", tmp_path / "out").exception)
    save_model(model, msgspec.structs.replace(card, knowledge="demo"), state)
    assert "says demo" in str(run("publish", model, "--to", tmp_path / "out").exception)
    assert not (tmp_path / "out").exists()
