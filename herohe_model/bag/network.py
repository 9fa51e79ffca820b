"""The network of a bag model: a layer for each patch, pooling, and the ordinal head of the composite.

A logit is the sum over patches of ``a_i * (w . h_i)``, plus a bias, where ``h_i`` is the patch after
the layer and ``a_i`` its weight: 1/n for the mean, gated attention's otherwise (Ilse, Tomczak and Welling
2018, *Attention-based Deep Multiple Instance Learning*, equation 9). So each patch's share is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from herohe_model.model.bag_model import bag_of
from herohe_model.model.card import ModelCard
from herohe_model.model.network import FreeHead, OrderedHead

_DROPOUT: Final = 0.25
_BLOCK: Final = 65_536
"""Patches that go through the layer at once, so that memory does not grow by their features again."""


class BagPass(NamedTuple):
    """What the network says of one bag.

    Attributes
    ----------
    logits
        Shape (bits,), float32, highest step first.
    shares
        Shape (n, bits), float32: each patch's share of each logit, which sum to the logits.
    attention
        Shape (n,), float32, sums to 1.
    """

    logits: torch.Tensor
    shares: torch.Tensor
    attention: torch.Tensor


class BagNetwork(nn.Module):
    """One bag in, logits out.

    Parameters
    ----------
    card
        Of a bag model. Weights are random; features are taken as they are until :meth:`standardise` is told
        how they are spread.
    """

    centre: torch.Tensor
    scale: torch.Tensor

    def __init__(self, card: ModelCard) -> None:
        super().__init__()
        spec = bag_of(card)
        self.register_buffer("centre", torch.zeros(spec.dimension))
        self.register_buffer("scale", torch.ones(spec.dimension))
        self.layer = nn.Linear(spec.dimension, spec.width)
        self.attends = spec.pooling == "attention"
        if self.attends:
            inner = spec.attention_width or max(1, spec.width // 2)
            self.value, self.gate = nn.Linear(spec.width, inner), nn.Linear(spec.width, inner)
            self.weigh = nn.Linear(inner, 1)
        head = FreeHead if card.head == "free" else OrderedHead
        self.head = head(spec.width, len(card.steps))

    def standardise(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        """Take features by their mean and standard deviation in training, each of shape (dimension,)."""
        self.centre.copy_(mean)
        # A number that never varies says nothing, and must not become large by its rounding.
        self.scale.copy_(torch.where(std > 1e-6, std, torch.ones_like(std)))

    def forward(self, features: torch.Tensor) -> BagPass:
        """Compute one bag, features of shape (n, dimension), float32, n at least 1."""
        return self._pooled(torch.cat([self._patches(part) for part in torch.split(features, _BLOCK)]))

    def forward_bags(self, standard: torch.Tensor, counts: Sequence[int]) -> list[BagPass]:
        """Compute several bags at once, which fills the cores better than small ones one by one.

        Parameters
        ----------
        standard
            Shape (n, dimension), float32: the bags' features one below the other, less :attr:`centre` and by
            :attr:`scale`.
        counts
            Patches of each bag; together n.
        """
        hidden = self._hidden(standard)
        return [self._pooled(part) for part in torch.split(hidden, list(counts))]

    def _pooled(self, hidden: torch.Tensor) -> BagPass:
        attention = self._attention(hidden)
        linear = self.head.linear(hidden.T[None, :, :, None])[0, :, :, 0].T
        biases = self.head.biases()
        shares = attention[:, None] * linear + biases / len(hidden)
        return BagPass((attention[:, None] * linear).sum(dim=0) + biases, shares, attention)

    def _patches(self, features: torch.Tensor) -> torch.Tensor:
        return self._hidden((features - self.centre) / self.scale)

    def _hidden(self, standard: torch.Tensor) -> torch.Tensor:
        return functional.dropout(functional.relu(self.layer(standard)), _DROPOUT, self.training)

    def _attention(self, hidden: torch.Tensor) -> torch.Tensor:
        if not self.attends:
            return hidden.new_full((len(hidden),), 1 / len(hidden))
        gated = torch.tanh(self.value(hidden)) * torch.sigmoid(self.gate(hidden))
        return torch.softmax(self.weigh(gated)[:, 0], dim=0)
