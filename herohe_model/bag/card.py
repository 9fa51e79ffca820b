"""The card of a bag model: made for features, checked against others, and given its golden logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from herohe_model.errors import OptionError
from herohe_model.features.schema import FeatureFacts, FeatureFileError, differences
from herohe_model.model.bag_model import BagModel, bag_of, golden_logits, split_members
from herohe_model.model.card import USUAL_THRESHOLD, BagCard, Head, ModelCard, Pooling, TargetName

if TYPE_CHECKING:
    import torch


def new_bag_card(
    name: str,
    facts: FeatureFacts,
    *,
    pooling: Pooling,
    head: Head,
    target: TargetName,
    positive_step: str,
    width: int,
) -> ModelCard:
    """Make the card of a bag model of features like these, which learned nothing yet.

    Raises
    ------
    OptionError
        If the file does not say enough of its features for others to be told apart from them.
    """
    missing = [
        what
        for what, value in (
            ("its encoder", facts.encoder),
            ("how many px a patch has", facts.patch_px),
            ("at how many µm per px patches were read", facts.mpp),
        )
        if not value
    ]
    if missing:
        raise OptionError(
            f"{facts.path} does not say {' nor '.join(missing)}",
            "Extract the features with TRIDENT 2, STAMP 2 or herohe-bridge features extract",
        )
    assert facts.encoder is not None and facts.patch_px is not None and facts.mpp is not None
    sha256 = facts.provenance.get("weights_sha256", "")
    threshold = facts.provenance.get("foreground_threshold")
    return ModelCard(
        name=name,
        backbone="",
        head=head,
        target=target,
        patch_px=facts.patch_px,
        grid=1,
        mpp=facts.mpp,
        foreground_threshold=threshold if isinstance(threshold, float) else USUAL_THRESHOLD,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        positive_step=positive_step,
        note="For research use only; it has no regulatory approval.",
        bag=BagCard(
            pooling=pooling,
            dimension=facts.dimension,
            width=width,
            encoder=facts.encoder,
            encoder_sha256=sha256 if isinstance(sha256, str) else "",
            encoder_golden=_golden_feature(facts, sha256),
        ),
    )


def _golden_feature(facts: FeatureFacts, sha256: object) -> tuple[float, ...]:
    """Return what the record beside a file of features says that its encoder gave; () without one."""
    # Reads by timm's and PyTorch's leave, which who only checks features does without.
    from herohe_model.encoders.golden import read_record, record_path

    path = record_path(facts.path.parent)
    if not path.is_file():
        return ()
    record = read_record(path)
    return record.golden[0] if record.golden and record.weights_sha256 == sha256 else ()


def check_features(card: ModelCard, facts: FeatureFacts) -> None:
    """Check that a file's features are those that the card's model learned from.

    Raises
    ------
    FeatureFileError
        If encoder, numbers a patch, or the patches' size are others.
    """
    spec = bag_of(card)
    wrong = differences(
        facts,
        encoder=spec.encoder,
        dimension=spec.dimension,
        patch_px=card.patch_px,
        mpp=card.mpp,
        weights_sha256=spec.encoder_sha256,
    )
    if wrong:
        raise FeatureFileError(
            f"{facts.path} does not hold the features that {card.name} learned from: {'; '.join(wrong)}",
            "Extract features as the model's card says (herohe-bridge model info)",
        )


def with_golden(card: ModelCard, state: Mapping[str, torch.Tensor]) -> ModelCard:
    """Return a card that holds the logits of its weights for drawn features."""
    spec = bag_of(card)
    plain = msgspec.structs.replace(card, bag=msgspec.structs.replace(spec, golden=()))
    weights = {key: tensor.detach().cpu().numpy() for key, tensor in state.items()}
    logits = golden_logits(BagModel(plain, split_members(plain, weights, card.name), ""))
    return msgspec.structs.replace(card, bag=msgspec.structs.replace(spec, golden=tuple(logits.tolist())))
