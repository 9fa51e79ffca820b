"""PyTorch, timm and OpenVINO stay out of processes that compute nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from helpers.small_slides import drawn, small_slide

from bridge.annotations.geojson_writing import write_annotations

_LIGHT = (
    *("bridge.cli", "bridge.doctor", "bridge.batch.run", "bridge.client.client", "bridge.cluster.executor"),
    *("bridge.cluster.worker", "bridge.console.batch_view", "bridge.export.tables", "bridge.export.geojson"),
    *(
        "bridge.install.bundle",
        "bridge.install.scripts",
        "bridge.projects.qupath_project",
        "bridge.projects.slide_folder",
    ),
    *("bridge.report.page", "bridge.server.server", "bridge.server.worker"),
    *("herohe_model.dataset.labels", "herohe_model.evaluation.evaluate", "herohe_model.evaluation.page"),
    *("herohe_model.features.find", "herohe_model.features.read", "herohe_model.features.write"),
    *("herohe_model.encoders.table", "herohe_model.encoders.weights", "herohe_model.encoders.fetch"),
    *("herohe_model.model.library", "herohe_model.publishing.obtain", "herohe_model.publishing.publish"),
    *("herohe_model.sampling.composite_reader", "herohe_model.sampling.patches", "herohe_model.slides.slide"),
)

_COMMON = """
import importlib, json, os, pkgutil, sys
def heavy():
    return [name for name in ("torch", "torchvision", "timm", "openvino") if name in sys.modules]
"""

_IMPORTS = f"""{_COMMON}
before = dict(os.environ)
import bridge.commands
names = [f"bridge.commands.{{m.name}}" for m in pkgutil.iter_modules(bridge.commands.__path__)]
for name in [*names, *sys.argv[1:]]:
    importlib.import_module(name)
    assert not heavy(), (name, heavy())
assert dict(os.environ) == before, "an import set an environment variable"
"""

_COMMANDS = f"""{_COMMON}
from bridge.cli import main
for line in json.loads(sys.argv.pop()):
    sys.argv = ["herohe-bridge", *line]
    try:
        main()
    except SystemExit as end:
        assert not end.code, (line, end.code)
    assert not heavy(), (line, heavy())
"""

_SERVER = f"""{_COMMON}
import threading
from pathlib import Path
from bridge.server.server import Server
from helpers.servers import scripted
if __name__ == "__main__":
    server = Server(scripted(Path(sys.argv[1])))
    threading.Thread(target=lambda: (sys.stdin.read(), server.cut_off()), daemon=True).start()
    server.run(lambda record: print(record.endpoints[-1], flush=True))
    print(heavy())
"""


def python(program: str, *arguments: str) -> None:
    """Run a program in a process of its own; it must succeed."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_computes_nothing_imports_no_pytorch_and_sets_nothing() -> None:
    python(_IMPORTS, *_LIGHT)


def test_neither_driver_nor_server_of_score_nor_what_reads_its_run_loads_pytorch(tmp_path: Path) -> None:
    slides, run = tmp_path / "slides", str(tmp_path / "slides/herohe-bridge")
    slides.mkdir()
    write_annotations(small_slide(slides / "a.tif"), [drawn(64, 64, 256, 320)])
    write_annotations(small_slide(slides / "b.tif", seed=1), [drawn(64, 64, 256, 320)])
    truth = tmp_path / "truth.csv"
    truth.write_text("case,status,split\na,Positive,test\nb,Negative,test\n", encoding="utf-8")
    path = os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVER, str(tmp_path / "model")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    try:
        assert server.stdout is not None and server.stdin is not None
        endpoint = server.stdout.readline().strip()
        lines = [
            *(["score", str(slides), "--server", endpoint, "--region-class", "Tumor"],),
            *(["report", run], ["export", run, "--to", str(tmp_path / "out"), "--format", "geojson"]),
            *(["evaluate", f"{run}/results.json", "--truth", str(truth)], ["status"], ["keys", "--help"]),
        ]
        python(_COMMANDS, json.dumps(lines))
        assert server.communicate("\n")[0] == "[]\n"
    finally:
        server.kill()
        server.wait()
