"""A bag model at work: loaded, checked by its golden logits, and asked about a bag."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from herohe_model.bag.network import BagNetwork, bag_of
from herohe_model.errors import ModelFileError, OptionError
from herohe_model.features.schema import FeatureFacts, FeatureFileError
from herohe_model.model.card import BagCard, Head, ModelCard, Pooling, TargetName
from herohe_model.model.checkpoint import load_model, member_states

_GOLDEN_PATCHES: Final = 64
_GOLDEN_TOLERANCE: Final = 1e-3
_SCALE_TOLERANCE: Final = 0.02
_OTHER_FILE: Final = "Use a file made by herohe-bridge train --features"


@dataclass(frozen=True)
class BagScore:
    """What a bag model says of one bag.

    Attributes
    ----------
    logits
        Shape (members, bits), float32, highest step first; the model's are their mean.
    contributions
        Shape (n, bits), float32: each patch's share of the model's logits. They add up to them within 1e-4.
    attention
        Shape (n,), float32, sums to 1; the mean of the members'.
    """

    logits: NDArray[np.float32]
    contributions: NDArray[np.float32]
    attention: NDArray[np.float32]


@dataclass(frozen=True)
class BagModel:
    """A loaded bag model, on the CPU.

    Attributes
    ----------
    sha256
        Of the model file, hexadecimal.
    """

    card: ModelCard
    networks: tuple[BagNetwork, ...]
    sha256: str

    def score(self, features: NDArray[np.float32]) -> BagScore:
        """Score one bag whole.

        Parameters
        ----------
        features
            Shape (n, dimension), float32, n at least 1; as :func:`check_features` has found them to fit.
        """
        with torch.inference_mode():
            passes = [network(torch.from_numpy(features)) for network in self.networks]
        return BagScore(
            np.stack([p.logits.numpy() for p in passes]),
            _mean([p.shares.numpy() for p in passes]),
            _mean([p.attention.numpy() for p in passes]),
        )

    def check(self, facts: FeatureFacts) -> None:
        """Check that a file's features are those that the model learned from.

        Raises
        ------
        FeatureFileError
            If encoder, numbers a patch, or the patches' size are others.
        """
        check_features(self.card, facts)


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
    sha256 = facts.provenance.get("encoder_sha256", "")
    return ModelCard(
        name=name,
        backbone="",
        head=head,
        target=target,
        patch_px=facts.patch_px,
        grid=1,
        mpp=facts.mpp,
        foreground_threshold=0.07,
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
        ),
    )


def check_features(card: ModelCard, facts: FeatureFacts) -> None:
    """Check that a file's features are those of the card; see :meth:`BagModel.check`."""
    spec = bag_of(card)
    wrong = []
    if facts.encoder != spec.encoder:
        wrong.append(f"they are of {facts.encoder or 'an encoder it does not name'}, not of {spec.encoder}")
    if facts.dimension not in (0, spec.dimension):
        wrong.append(f"a patch has {facts.dimension} numbers, not {spec.dimension}")
    if facts.patch_px is not None and facts.patch_px != card.patch_px:
        wrong.append(f"patches have {facts.patch_px} px, not {card.patch_px}")
    if facts.mpp is not None and abs(facts.mpp / card.mpp - 1) > _SCALE_TOLERANCE:
        wrong.append(f"patches were read at {facts.mpp:g} µm/px, not at {card.mpp:g}")
    made_by = facts.provenance.get("encoder_sha256")
    if spec.encoder_sha256 and made_by and made_by != spec.encoder_sha256:
        wrong.append("the encoder had other weights")
    if wrong:
        raise FeatureFileError(
            f"{facts.path} does not hold the features that {card.name} learned from: {'; '.join(wrong)}",
            "Extract features as the model's card says (herohe-bridge model info)",
        )


def with_golden(card: ModelCard, state: Mapping[str, torch.Tensor]) -> ModelCard:
    """Return a card that holds the logits of its weights for drawn features."""
    spec = bag_of(card)
    plain = msgspec.structs.replace(card, bag=msgspec.structs.replace(spec, golden=()))
    logits = _golden_logits(BagModel(plain, _networks(plain, state, card.name), ""))
    return msgspec.structs.replace(card, bag=msgspec.structs.replace(spec, golden=tuple(logits.tolist())))


def load_bag_model(path: Path) -> BagModel:
    """Load a bag model, and check that this machine computes with it what the one did that made it.

    Raises
    ------
    ModelFileError
        As of :func:`~herohe_model.model.checkpoint.load_model`; also if it is no bag model, its weights do
        not fit its card, or its golden logits come out otherwise.
    """
    card, state, sha256 = load_model(path)
    spec = bag_of(card)
    model = BagModel(card, _networks(card, state, str(path)), sha256)
    if spec.golden:
        found = _golden_logits(model)
        if len(spec.golden) != len(found) or not np.allclose(
            found, spec.golden, rtol=0, atol=_GOLDEN_TOLERANCE
        ):
            raise ModelFileError(
                f"{path} computes other logits here than where it was made: {found.round(4).tolist()} "
                f"instead of {[round(z, 4) for z in spec.golden]}",
                f"It was made with {card.versions or 'versions it does not name'}: use those",
            )
    return model


def _networks(card: ModelCard, state: Mapping[str, torch.Tensor], what: str) -> tuple[BagNetwork, ...]:
    with torch.device("meta"):
        expected = {key: tuple(t.shape) for key, t in BagNetwork(card).state_dict().items()}
    networks = []
    for member in member_states(card, state):
        found = {key: tuple(t.shape) for key, t in member.items()}
        wrong = sorted(key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key))
        if wrong:
            raise ModelFileError(
                f"{what} does not fit its card: {len(wrong)} weights differ, such as {wrong[0]}", _OTHER_FILE
            )
        with torch.random.fork_rng(devices=[]):
            network = BagNetwork(card)
        network.load_state_dict(member)
        networks.append(network.eval().requires_grad_(False))
    return tuple(networks)


def _golden_logits(model: BagModel) -> NDArray[np.float64]:
    """Return the logits of features that are drawn alike everywhere, shape (bits,)."""
    spec = bag_of(model.card)
    network = model.networks[0]
    # Of NumPy's generators, PCG64's raw numbers are the same in every version; and what the network expects.
    raw = np.random.PCG64(0).random_raw(_GOLDEN_PATCHES * spec.dimension).astype(np.float64) / 2.0**64
    drawn = (raw.reshape(_GOLDEN_PATCHES, spec.dimension) - 0.5) * np.sqrt(12.0)
    features = drawn * network.scale.numpy().astype(np.float64) + network.centre.numpy()
    return np.asarray(model.score(features.astype(np.float32)).logits.mean(axis=0), dtype=np.float64)


def _mean(arrays: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.asarray(np.mean(arrays, axis=0, dtype=np.float64), dtype=np.float32)
