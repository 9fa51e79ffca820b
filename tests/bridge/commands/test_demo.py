from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from PIL import Image


def test_the_demo_leaves_a_model_results_a_picture_and_a_page(tmp_path: Path) -> None:
    # What people try first, whole: some 20 s of drawing, training and scoring, in a process of its own.
    folder = tmp_path / "demo"
    done = subprocess.run(
        [sys.executable, "-m", "bridge", "demo", str(folder), "--slides", "8", "--steps", "8"],
        env=os.environ | {"PAQUO_QUPATH_DIR": str(tmp_path / "no-qupath")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "F1" in done.stdout and "for show" in done.stdout
    page = (folder / "report.html").read_text(encoding="utf-8")
    # The page's script has the same words, for a slide of its own.
    assert "Pictures are missing of" not in page and "Agreement with IHC" in page
    assert "Research use only" in page and "which know nothing of real tissue" in page
    with Image.open(folder / "overview.png") as overview:
        assert overview.width > 1000
    assert (folder / "training" / "curves.html").is_file()
