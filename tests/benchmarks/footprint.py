"""Processor time and memory of the processes that compute nothing, before they begin to work.

    python tests/benchmarks/footprint.py

The driver of ``score`` is measured with everything imported that it needs to begin its first slide, the
server's front process when its worker has loaded a model that is made for this. Aim: below 100 MiB and 1 s
each (737 MiB and 3.2 s when both loaded PyTorch).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

from bridge.client.address import ServerAddress
from bridge.client.child_server import ChildServer
from herohe_model.model.checkpoint import save_model
from herohe_model.model.compute import Compute
from herohe_model.model.new_model import new_model

_DRIVER = """
import sys
import bridge.cli, bridge.batch.run, bridge.client.client, bridge.commands.score, bridge.console.batch_view
import bridge.console.interrupt, bridge.console.log, bridge.projects.slide_folder
print("ready", flush=True)
sys.stdin.read()
"""


def report(what: str, process: psutil.Process) -> None:
    """Print a line about a process."""
    memory, times = process.memory_full_info(), process.cpu_times()
    print(
        f"{what}: {times.user + times.system:.2f} s of processor time, "
        f"{memory.rss / 2**20:.0f} MiB resident, {memory.uss / 2**20:.0f} MiB of them private"
    )


def main() -> None:
    """Measure both."""
    driver = subprocess.Popen([sys.executable, "-c", _DRIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert driver.stdout is not None
    driver.stdout.readline()
    report("driver of score", psutil.Process(driver.pid))
    driver.communicate()
    with tempfile.TemporaryDirectory() as home:
        model = Path(home) / "m.safetensors"
        card, state = new_model("test_resnet", head="free", target="ihc", patch_px=32, mpp=0.5)
        save_model(model, card, state)
        server = ChildServer(model, Compute("cpu", "fp32", "torch"))
        try:
            assert isinstance(server.find(), ServerAddress)
            report("server's front process", psutil.Process(server.record.pid))
        finally:
            server.close()


if __name__ == "__main__":
    main()
