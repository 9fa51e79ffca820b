from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from bridge.qupath.jvm import qupath_facts, start_qupath

pytestmark = pytest.mark.qupath


def test_the_doctor_learns_which_qupath_there_is() -> None:
    facts = qupath_facts()
    assert facts["supported"] is True
    assert facts["openslide"] is True
    assert facts["version"] == start_qupath().version
    assert facts["directory"] == str(start_qupath().directory)
    assert start_qupath().directory.is_dir()


def test_garbage_is_not_collected_for_each_slide_that_is_opened() -> None:
    java = start_qupath().java
    beans = java("java.lang.management.ManagementFactory").getGarbageCollectorMXBeans()
    whole = ("G1 Old Generation", "MarkSweepCompact", "PS MarkSweep")  # not the young, which may run any time
    collectors = [bean for bean in beans if str(bean.getName()) in whole]
    before = [int(collector.getCollectionCount()) for collector in collectors]
    java("java.lang.System").gc()  # as QuPath's OpenSlide reader does
    assert before and before == [int(collector.getCollectionCount()) for collector in collectors]


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent to whole groups there")
def test_an_interrupt_still_reaches_python() -> None:
    """A Java machine takes Ctrl-C for itself, unless told not to, and leaves at once."""
    code = (
        "import signal\n"
        "from bridge.qupath.jvm import start_qupath\n"
        "start_qupath()\n"
        "try:\n"
        "    print('ready', flush=True)\n"
        "    signal.pause()\n"
        "except KeyboardInterrupt:\n"
        "    print('servers stopped, files closed')\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=300)
    assert (process.returncode, out) == (0, "servers stopped, files closed\n")
