"""What shall compute a model: device, precision and engine by name, without importing any."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from herohe_model.errors import OptionError

EngineName = Literal["torch", "openvino"]
ENGINES: Final = ("auto", "torch", "openvino")
"""What ``--engine`` takes."""

Precision = Literal["fp32", "bf16"]
PRECISIONS: Final = ("auto", "fp32", "bf16")
"""What ``--precision`` takes."""


class Compute(msgspec.Struct, frozen=True):
    """What a user wants a model computed by; ``auto`` leaves the choice to the machine.

    Attributes
    ----------
    device
        ``auto`` (CUDA, then MPS, then the CPU), ``cpu``, ``cuda``, ``cuda:n`` or ``mps``.
    precision
        ``fp32``, ``bf16``, or ``auto``: on a GPU bf16 where the hardware computes in it, on the CPU what
        :func:`~herohe_model.engines.choice.choose_engine` finds.
    engine
        ``torch``, ``openvino`` (on the CPU alone), or ``auto``. With engine and precision both named, nothing
        is measured or compared.

    Raises
    ------
    OptionError
        If that is no name of an engine or a precision.
    """

    device: str = "auto"
    precision: str = "auto"
    engine: str = "auto"

    def __post_init__(self) -> None:
        """Refuse what is no name."""
        if self.engine not in ENGINES:
            raise OptionError(f"{self.engine!r} is no engine", f"Use {', '.join(ENGINES)}")
        if self.precision not in PRECISIONS:
            raise OptionError(f"{self.precision!r} is no precision", f"Use {', '.join(PRECISIONS)}")

    def leaves_open(self, engine: str, precision: str) -> bool:
        """Whether this engine and precision may be chosen."""
        return self.engine in ("auto", engine) and self.precision in ("auto", precision)


AUTO: Final = Compute()
"""Everything is left to the machine."""


def engine_name(label: str) -> str:
    """Return the name, as ``--engine`` takes it, of an engine that results name with its version."""
    return label.partition(" ")[0]
