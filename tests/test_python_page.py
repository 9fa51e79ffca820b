"""The face of both packages, and the page that shows it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import bridge
import herohe_model

PAGE = Path(__file__).resolve().parents[1] / "docs" / "python.md"

FACE = {
    herohe_model: {
        "Compute",
        "GuardedSlide",
        "HeroheError",
        "ModelCard",
        "Scorer",
        "Slide",
        "draw_composites",
        "find_patches",
        "new_model",
        "read_card",
        "read_composite",
        "save_model",
    },
    bridge: {
        "Annotation",
        "BatchOptions",
        "ScoreOptions",
        "annotations_from_geojson",
        "build_regions",
        "connect_or_start",
        "find_run",
        "measurements",
        "open_collection",
        "run_batch",
        "score_slide",
    },
}


@pytest.mark.parametrize("package", FACE, ids=lambda package: package.__name__)
def test_a_package_lists_its_face_and_gives_every_name(package: object) -> None:
    names = FACE[package] | {"__version__"}
    assert set(package.__all__) == names <= set(dir(package))
    page = PAGE.read_text(encoding="utf-8")
    for name in sorted(names):
        value = getattr(package, name)
        assert name == "__version__" or (value.__name__ == name and value.__doc__ and f"{name}" in page)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = package.nonsense


def test_importing_the_packages_loads_neither_pytorch_nor_numpy() -> None:
    program = "import sys, bridge, herohe_model; print({'torch', 'numpy', 'paquo', 'zmq'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_examples_print_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```(python|text)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert [kind for kind, _ in blocks].count("python") >= 6
    scope: dict[str, object] = {"__name__": "examples"}
    for (kind, code), (following, expected) in zip(blocks, [*blocks[1:], ("", "")], strict=True):
        if kind == "python":
            exec(compile(code, str(PAGE), "exec"), scope)
            assert capsys.readouterr().out == (expected if following == "text" else "")
