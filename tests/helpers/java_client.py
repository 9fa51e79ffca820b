"""A Java machine with the scripts' own client part, and without QuPath."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bridge.install.jars import JARS, Jar, JarError, find_jars
from bridge.install.scripts import shared_classes

GROOVY = Jar(
    "org.apache.groovy",
    "groovy",
    "4.0.26",
    "ae3196ed31fa11e8506f9c40a6b34fdaff06a8eeda78a8a6ebaeb1a2a0ad35dc",
)
GSON = Jar(
    "com.google.code.gson",
    "gson",
    "2.11.0",
    "57928d6e5a6edeb2abd3770a8f95ba44dce45f3b23b7a9dc2b309c581552a78b",
)
DRIVER = Path(__file__).parents[1] / "qupath_scripts" / "client.groovy"


class JavaClient:
    """Talks to servers as a script in QuPath does; one command at a time."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def ask(self, do: str, **command: Any) -> dict[str, Any]:
        """Send a command; the answer has `ok`, or a `failure` in words with its `code`."""
        self.begin(do, **command)
        return self.finish()

    def begin(self, do: str, **command: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **command}).encode() + b"\n")
        self._process.stdin.flush()

    def finish(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the Java machine ended"
        answer: dict[str, Any] = json.loads(line)
        assert "unexpected" not in answer, answer
        return answer


@contextmanager
def running_java_client(folder: Path) -> Iterator[JavaClient]:
    """Start one; skips where there is no Java, or where its jars cannot be had."""
    java = shutil.which("java")
    if java is None:
        pytest.skip("there is no Java on the path, so the scripts' client part is not tested")
    try:
        jars = find_jars(wanted=(*JARS, GROOVY, GSON))
    except JarError as error:
        pytest.skip(f"the jars of the Java side cannot be had: {error}")
    for name in ("HeroheClient.groovy", "HeroheServer.groovy"):
        (folder / name).write_text(shared_classes()[name], encoding="utf-8")
    classpath = os.pathsep.join([*map(str, jars.values()), str(folder)])
    command = [
        java,
        "-Xshare:auto",
        "-XX:TieredStopAtLevel=1",
        "-cp",
        classpath,
        "groovy.ui.GroovyMain",
        str(DRIVER),
    ]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield JavaClient(process)
    finally:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.close()
        process.wait(timeout=60)
        process.stdout.close()
