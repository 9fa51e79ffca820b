"""The engines' names; without importing any."""

from __future__ import annotations

from typing import Final, Literal

EngineName = Literal["torch", "openvino"]
ENGINES: Final = ("auto", "torch", "openvino")
"""What ``--engine`` takes."""


def engine_name(label: str) -> str:
    """Return the name, as ``--engine`` takes it, of an engine that results name with its version."""
    return label.partition(" ")[0]
