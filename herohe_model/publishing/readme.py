"""The page of a published model, a model card in the form of the Hugging Face hub.

Mitchell et al. 2019, *Model Cards for Model Reporting*: intended use, data, figures with intervals, limits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from herohe_model.evaluation.schema import Evaluation, Measure, Number
from herohe_model.model.card import ModelCard
from herohe_model.printable import printable_name
from herohe_model.publishing.terms import Terms

_USE: Final = (
    "herohe-bridge model get FOLDER_OR_ADDRESS",
    "herohe-bridge score PROJECT --model NAME --region-class Tumor",
)


@dataclass(frozen=True)
class PageFacts:
    """What stands on the page beside card and evaluation.

    Attributes
    ----------
    out_of_fold
        Whether the evaluation is the cross-validation of the training; else of other slides.
    cohorts, networks
        Terms of the data, and of the network's weights.
    permission
        Who permitted what they leave open.
    contact
        Whom to write to.
    """

    sha256: str
    licence: str
    out_of_fold: bool
    cohorts: Sequence[Terms]
    networks: Sequence[Terms]
    permission: str
    contact: str


def model_page(card: ModelCard, evaluation: Evaluation, facts: PageFacts) -> str:
    """Return the page, Markdown after YAML; the same model and evaluation give the same text."""
    return "\n".join([*_front(card, evaluation, facts), "", *_body(card, evaluation, facts)]) + "\n"


def _front(card: ModelCard, evaluation: Evaluation, facts: PageFacts) -> Iterator[str]:
    """Yield the YAML; JSON's strings are YAML's, too, so nothing in a name can leave its place."""
    yield "---"
    yield f"license: {json.dumps(facts.licence)}"
    yield "library_name: herohe-bridge"
    yield "pipeline_tag: image-classification"
    yield f"tags: {json.dumps(['histopathology', 'breast-cancer', 'her2', 'h-and-e', 'research-use-only'])}"
    yield "model-index:"
    yield f"- name: {json.dumps(printable_name(card.name))}"
    yield "  results:"
    yield "  - task: {type: image-classification, name: HER2 status from H&E}"
    # The hub names a data set by a name and an identifier.
    yield f"    dataset: {{type: histopathology, name: {json.dumps(_evaluated_on(card, evaluation, facts))}}}"
    yield "    metrics:"
    for m in evaluation.status:
        if m.value is not None:
            yield f"    - {{type: {json.dumps(m.name)}, value: {m.value:g}, name: {json.dumps(m.label)}}}"
    yield "---"


def _body(card: ModelCard, evaluation: Evaluation, facts: PageFacts) -> Iterator[str]:
    name = printable_name(card.name)
    yield f"# {name}"
    yield ""
    yield (
        f"P(HER2-positive) of breast cancer from H&E slides, for herohe-bridge; {_network(card)}. "
        "**Research use only, not for diagnosis.** HER2 status needs IHC, and ISH where IHC is 2+; nothing "
        "here replaces them."
    )
    yield from _section(
        "What it is for",
        "- Research on which tissue tells the HER2 status of invasive breast cancer in H&E slides, in QuPath "
        "or from the command line.",
        f"- Slides of H&E, read at {card.mpp:g} µm/px, patches of {card.patch_px} px; tumour regions drawn "
        "by a pathologist are what it should be given.",
        "- Not for decisions about patients; not for other stains, other tissue, or slides without tumour.",
    )
    yield from _section("How to use it", "```", *_USE, "```")
    yield from _section(
        "What it says",
        f"- Steps: {', '.join(card.steps)}; HER2-positive is {card.positive_step}.",
        f"- Learned from both answers, and so said anything of: {', '.join(card.claimed_steps)}.",
        f"- Threshold on P(positive): {card.decision_threshold:g}; {card.threshold_chosen}.",
        f"- Calibration: {card.calibrated_for or 'none; probabilities are scores'}.",
        f"- Networks: {card.members}.",
    )
    yield from _section(
        "Data and terms",
        f"- Trained on: {printable_name(card.trained_on) or 'not said'}.",
        *(f"- {t.name}: {t.said}. {_named(t)}({t.facts_from})" for t in (*facts.cohorts, *facts.networks)),
        f"- Licence of this model: {facts.licence}. The terms of data and encoder come on top.",
        *((f"- Permission: {printable_name(facts.permission)}.",) if facts.permission else ()),
        "- No slide, picture or case is in this folder.",
    )
    yield from _section("Figures", *_figures(card, evaluation, facts))
    yield from _section("Limits", *_limits(card, evaluation))
    yield from _section(
        "What lies here",
        f"- `model.safetensors`, SHA-256 `{facts.sha256}`.",
        "- `evaluation.html`: all figures, with intervals, strata, trivial answers; and as JSON.",
        "- `golden.json`: what it gives for a drawn picture; `herohe-bridge model verify` compares.",
        "- `manifest.json`: SHA-256 of every file; `herohe-bridge model get` refuses what is not equal.",
        *((f"- Contact: {printable_name(facts.contact)}.",) if facts.contact else ()),
    )


def _figures(card: ModelCard, evaluation: Evaluation, facts: PageFacts) -> Iterator[str]:
    yield (
        f"{_evaluated_on(card, evaluation, facts)}: {evaluation.cases} cases, {evaluation.positive} "
        f"HER2-positive, {evaluation.negative} negative. Intervals are 95% ({evaluation.interval_method})."
    )
    yield ""
    yield "| measure | value | 95% interval | trivial answer |"
    yield "|---|---:|---:|---:|"
    for m in (*evaluation.status, *evaluation.grade):
        best = max((t.value for t in m.trivial if t.value is not None), default=None)
        trivial = _number(best if m.better == "higher" else _least(m))
        yield f"| {m.label} | {_number(m.value)} | {_number(m.low)} to {_number(m.high)} | {trivial} |"
    if evaluation.equivocal is not None and evaluation.equivocal.auc.value is not None:
        e = evaluation.equivocal
        yield (
            f"| AUC inside IHC 2+ ({e.cases} cases) | {_number(e.auc.value)} | "
            f"{_number(e.auc.low)} to {_number(e.auc.high)} | |"
        )
    for warning in evaluation.warnings:
        yield from ("", f"**{printable_name(warning)}**")


def _limits(card: ModelCard, evaluation: Evaluation) -> Iterator[str]:
    share = evaluation.positive / evaluation.cases if evaluation.cases else 0.0
    yield "- 2+ is equivocal and needs ISH: from H&E, the status of a 2+ is a guess with the figures above."
    yield (
        f"- {share:.0%} of the cases behind the figures are HER2-positive, in practice 15 to 20%: predictive "
        "values do not carry over. Sensitivity and specificity may not, either."
    )
    yield "- Models of H&E ride on grade and on other markers; look at the strata of the evaluation page."
    yield "- Laboratories, scanners and stains that it was not trained on may shift its probabilities."
    unlearned = [step for step in card.steps if step not in card.claimed_steps]
    if unlearned:
        yield f"- It says nothing of {', '.join(unlearned)}: these were not learned from both answers."
    yield "- HER2-low against zero is not told by H&E, and not claimed."
    if card.bag is not None:
        from herohe_model.encoders.table import known_encoders

        encoder = known_encoders().get(card.bag.encoder)
        if encoder is not None and encoder.trained_on:
            yield f"- Its encoder was trained on {encoder.trained_on}: what is measured there is too good."
    if card.note:
        yield f"- {printable_name(card.note)}"


def _evaluated_on(card: ModelCard, evaluation: Evaluation, facts: PageFacts) -> str:
    if facts.out_of_fold:
        return f"{printable_name(card.cohort)}, out of fold (cross-validation)"
    return printable_name(evaluation.title)


def _network(card: ModelCard) -> str:
    if card.bag is None:
        return f"composites of {card.grid} x {card.grid} patches, {card.backbone}"
    return f"bags of features of the encoder {card.bag.encoder}, pooled by {card.bag.pooling}"


def _section(title: str, *lines: str) -> Iterator[str]:
    yield from ("", f"## {title}", "", *lines)


def _named(terms: Terms) -> str:
    return f"To be named: {terms.attribution}. " if terms.attribution else ""


def _least(measure: Measure) -> Number:
    return min((t.value for t in measure.trivial if t.value is not None), default=None)


def _number(value: Number) -> str:
    return "–" if value is None else f"{value:.3f}"
