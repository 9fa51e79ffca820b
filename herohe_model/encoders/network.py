"""The network of an encoder: patches in, features out, normalisation included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import timm
import torch
from timm.layers.mlp import GluMlp, Mlp, SwiGLU, SwiGLUPacked
from torch import nn

from herohe_model.encoders.table import Encoder, Value
from herohe_model.errors import ModelFileError, OptionError

_LAYERS: Final[Mapping[str, object]] = {
    "GELU": nn.GELU,
    "GluMlp": GluMlp,
    "Mlp": Mlp,
    "SiLU": nn.SiLU,
    "SwiGLU": SwiGLU,
    "SwiGLUPacked": SwiGLUPacked,
}
"""What a table may name as a layer."""


class EncoderNetwork(nn.Module):
    """Patches in, features out.

    Parameters
    ----------
    encoder
        Complete, see :func:`~herohe_model.encoders.table.completed`.
    backbone
        What :func:`create_encoder_backbone` built, with weights; None for one with random weights.

    Raises
    ------
    OptionError
        If timm cannot build it.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, encoder: Encoder, backbone: nn.Module | None = None) -> None:
        super().__init__()
        self.pool = encoder.pool
        self.backbone = _fitted(create_encoder_backbone(encoder) if backbone is None else backbone, encoder)
        self.prefix = int(getattr(self.backbone, "num_prefix_tokens", 0))
        mean, std = encoder.mean or (0.0, 0.0, 0.0), encoder.std or (1.0, 1.0, 1.0)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1) * 255.0, persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1) * 255.0, persistent=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Compute features.

        Parameters
        ----------
        pixels
            Shape (n, side, side, 3), R, G, B, uint8.

        Returns
        -------
        Tensor
            Shape (n, dimension), float32.
        """
        x = (pixels.permute(0, 3, 1, 2) - self.mean) / self.std
        found: torch.Tensor = self.backbone(x)
        if self.pool == "own":
            return found.float()
        token = found[:, 0]
        if self.pool == "token":
            return token.float()
        # The mean of many numbers, in float32 also within autocast.
        mean = found[:, self.prefix :].float().mean(dim=1)
        return mean if self.pool == "mean" else torch.cat([token.float(), mean], dim=1)


def load_network(encoder: Encoder, state: Mapping[str, torch.Tensor], what: str) -> EncoderNetwork:
    """Build an encoder with weights as timm names them, on the CPU, in evaluation mode and frozen, float32.

    Weights of a classifier that the encoder does not have are left out.

    Raises
    ------
    ModelFileError
        If they do not fit, or are not finite; `what` names them.
    OptionError
        If timm cannot build it.
    """
    # Without storage first: weights that do not fit are refused before memory is taken.
    with torch.device("meta"):
        backbone = create_encoder_backbone(encoder)
    expected = backbone.state_dict()
    classifier = str(getattr(backbone, "pretrained_cfg", {}).get("classifier") or "head")
    given = {k: v for k, v in state.items() if k in expected or not k.startswith(f"{classifier}.")}
    wrong = [
        key
        for key in sorted(given.keys() | expected.keys())
        if key not in given or key not in expected or given[key].shape != expected[key].shape
    ]
    if wrong:
        key = wrong[0]
        raise ModelFileError(
            f"{what} are no weights of {encoder.name}: {len(wrong)} of {len(expected)} differ, such as "
            f"{key}, {_shape(given.get(key))} instead of {_shape(expected.get(key))}",
            "Name the weights that its source gives out for timm, or another encoder",
        )
    for key, tensor in given.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ModelFileError(f"{what}: {key} holds numbers that are not finite", "Fetch them again")
    whole = {k: v.float() if v.is_floating_point() else v for k, v in given.items()}
    if any(name not in expected for name, _ in backbone.named_buffers()):
        # Buffers that are no weights are only computed where there is storage.
        with torch.random.fork_rng(devices=[]):
            backbone = create_encoder_backbone(encoder)
    backbone.load_state_dict(whole, assign=True)
    return EncoderNetwork(encoder, backbone).eval().requires_grad_(False)


def check_network(encoder: Encoder) -> None:
    """Check that timm builds an encoder that gives as many numbers as its row says, without its weights.

    Raises
    ------
    OptionError
        If it does not.
    """
    try:
        with torch.device("meta"), torch.inference_mode():
            side = encoder.input_px
            found = EncoderNetwork(encoder).eval()(torch.zeros(1, side, side, 3))
    except (RuntimeError, AssertionError, IndexError, TypeError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        raise OptionError(
            f"{encoder.name} does not take patches of {encoder.input_px} px: {why}", _OTHER
        ) from error
    if tuple(found.shape) != (1, encoder.dimension):
        raise OptionError(
            f"{encoder.name} gives features of the shape {tuple(found.shape)}, and its row says "
            f"(1, {encoder.dimension})",
            _OTHER,
        )


_DYNAMIC: Final = ("dynamic_img_size", "dynamic_img_pad")
_OTHER: Final = "Correct its row, or use another version of timm"


def create_encoder_backbone(encoder: Encoder) -> nn.Module:
    """Build the timm network of an encoder, with random weights.

    Raises
    ------
    OptionError
        If timm cannot.
    """
    try:
        if not timm.is_model(encoder.architecture):
            raise OptionError(
                f"timm {timm.__version__} has no architecture {encoder.architecture!r} ({encoder.name})",
                _OTHER,
            )
        arguments: dict[str, Any] = {
            key: _value(value) for key, value in encoder.arguments.items() if key not in _DYNAMIC
        }
        if encoder.pool != "own":
            arguments["global_pool"] = ""
        module: nn.Module = timm.create_model(
            encoder.architecture, pretrained=False, num_classes=0, **arguments
        )
    except (RuntimeError, TypeError, ValueError, AssertionError, KeyError) as error:
        why = " ".join(str(error).split())[:200]
        raise OptionError(
            f"timm {timm.__version__} cannot build {encoder.name} ({encoder.architecture}): {why}", _OTHER
        ) from error
    return module


def _fitted(backbone: nn.Module, encoder: Encoder) -> nn.Module:
    """Bring a network that takes any size to the one of its patches, as timm does anew for each picture.

    Done once, it needs no interpolation in the graph, which OpenVINO does not have.
    """
    if any(encoder.arguments.get(key) for key in _DYNAMIC):
        backbone.set_input_size(img_size=(encoder.input_px, encoder.input_px))  # type: ignore[operator]  # timm's, by name
    return backbone


def _value(value: Value) -> object:
    if not isinstance(value, str) or value in ("", "token", "avg", "learn"):
        return value
    if value not in _LAYERS:
        raise OptionError(f"A table may not name the layer {value!r}", f"Use {', '.join(_LAYERS)}")
    return _LAYERS[value]


def _shape(tensor: torch.Tensor | None) -> str:
    return "absent" if tensor is None else "x".join(map(str, tensor.shape)) or "a number"
