from __future__ import annotations

import sys
from itertools import takewhile

import pytest

from bridge.doctor import Finding, examine


def engines() -> list[Finding]:
    """What the doctor says of engines; it says it before it starts Java."""
    quick = takewhile(lambda finding: finding.what != "model server", examine())
    return [finding for finding in quick if finding.what == "engine"]


def test_the_doctor_names_the_engines() -> None:
    torch, openvino = engines()
    assert torch.found.startswith("torch 2.")
    assert openvino.found.startswith("openvino 20")
    assert "fp32" in openvino.found
    assert {torch.state, openvino.state} == {"ok"}


def test_the_doctor_says_what_to_do_without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    missing = engines()[-1]
    assert missing.state == "note"
    assert "OpenVINO cannot be imported" in missing.found
    assert missing.remedy == "Run: python -m pip install openvino"
