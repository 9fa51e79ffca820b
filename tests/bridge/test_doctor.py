from __future__ import annotations

import sys
from itertools import takewhile
from pathlib import Path

import pytest
from click.testing import CliRunner

from bridge import doctor
from bridge.commands.doctor import command
from bridge.transport.runtime_directory import DIRECTORY_VARIABLE

NOTHING_OF_QUPATH = "import json; print(json.dumps({'problem': 'No QuPath.', 'remedy': 'Install it'}))"


@pytest.fixture(autouse=True)
def private_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "run"
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(folder))
    # Instead of a Java machine of seconds; what it says of a real QuPath is tested in test_jvm.py.
    monkeypatch.setattr(doctor, "_QUPATH_PROBE", NOTHING_OF_QUPATH)
    return folder


def test_every_finding_is_named_and_every_problem_has_a_remedy() -> None:
    findings = list(doctor.examine())
    assert all(finding.what and finding.found for finding in findings)
    assert all(finding.remedy for finding in findings if finding.state == "problem")
    ok = {finding.what for finding in findings if finding.state == "ok"}
    assert {"Python", "herohe-bridge", "torch", "paquo", "OpenSlide", "device"} <= ok


def test_who_scores_folders_is_well_without_qupath() -> None:
    found = CliRunner().invoke(command)
    assert found.exit_code == 0 and "PROBLEM" not in found.output
    assert "note     QuPath: No QuPath.\n         -> Install it" in found.output
    assert found.output.endswith("folders of slides. For QuPath projects, see the note above.\n")


def test_who_asks_for_qupath_is_told_that_it_is_missing() -> None:
    found = CliRunner().invoke(command, ["--qupath"])
    assert found.exit_code == 1
    assert "PROBLEM  QuPath: No QuPath.\n         -> Install it" in found.output
    assert found.output.endswith("1 problem, marked above.\n")


@pytest.mark.skipif(sys.platform == "win32", reason="profiles are private there")
def test_another_problem_is_not_taken_for_a_missing_qupath(private_directory: Path) -> None:
    private_directory.mkdir(mode=0o755)
    private_directory.chmod(0o755)
    found = CliRunner().invoke(command)
    assert "PROBLEM  model server: Others can read the runtime directory" in found.output
    assert "chmod 700" in found.output and "1 problem," in found.output


def test_a_package_that_is_not_installed_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = [
        "torch>=2.10",
        "no-such-package>=3",
        "neither-this>=1; extra == 'train'",
        "only-elsewhere; sys_platform == 'another'",
    ]
    monkeypatch.setattr(doctor, "requires", lambda name: lines)
    findings = {finding.what: finding for finding in doctor._packages()}
    assert findings["torch"].state == "ok" and "only-elsewhere" not in findings
    assert findings["no-such-package"].state == "problem"
    assert findings["no-such-package"].remedy == "Run: python -m pip install no-such-package"
    assert findings["extra 'train'"].state == "note"
    assert "neither-this not installed" in findings["extra 'train'"].found
    assert "herohe-bridge[train]" in findings["extra 'train'"].remedy


def engines() -> list[doctor.Finding]:
    """What the doctor says of engines; it says it before it starts Java."""
    quick = takewhile(lambda finding: finding.what != "model server", doctor.examine())
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
