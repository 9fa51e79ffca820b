"""Child processes that never outlive their parent.

A child's standard input is a pipe that its parent holds open and never writes to after the settings. However
the parent ends, the system closes the pipe, and the child sees the end of its input: on every platform,
without asking for process ids that may belong to somebody else by then.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Final

ENDING_S: Final = 10.0
"""How long a child may take to end by itself."""

_STDIN: Final = 0


def start_child(
    arguments: Sequence[str],
    *,
    settings: bytes = b"",
    stdout: int | None = None,
    stderr: IO[bytes] | None = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start this Python with `arguments`, away from the terminal's Ctrl-C, to end with this process.

    Parameters
    ----------
    settings
        One line for the child's standard input: unlike arguments, nobody else can read it.
    stdout, stderr
        As :class:`subprocess.Popen` takes them; None to share this process's.
    environment
        Variables to be set or changed.
    """
    child = subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=stderr,
        env={**os.environ, **environment} if environment else None,
        start_new_session=sys.platform != "win32",
        creationflags=_creation_flags(),
    )
    if settings:
        assert child.stdin is not None
        try:
            child.stdin.write(settings + b"\n")
            child.stdin.flush()
        except OSError:
            # It died at once; whoever waits for it will see that.
            pass
    return child


def _creation_flags() -> int:
    if sys.platform == "win32":
        return subprocess.CREATE_NEW_PROCESS_GROUP
    return 0


def end_child(child: subprocess.Popen[bytes], *, grace_s: float = ENDING_S) -> None:
    """Close the child's input, wait, and kill what does not end by itself; may be called twice."""
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:
                continue
    try:
        child.wait(grace_s)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def read_settings() -> bytes:
    """Return the line that :func:`start_child` sent; to be called before :func:`when_parent_ends`."""
    line = bytearray()
    # Unbuffered: what a buffer had read ahead would be lost for the watcher.
    while (byte := os.read(_STDIN, 1)) not in (b"", b"\n"):
        line += byte
    return bytes(line)


def when_parent_ends(ended: Callable[[], None]) -> None:
    """Call `ended` from a thread of its own once the parent has let go or is gone."""

    def wait() -> None:
        # os.read rather than sys.stdin: its lock would block the interpreter's end.
        try:
            while os.read(_STDIN, 4096):
                pass
        except OSError:
            pass
        ended()

    threading.Thread(target=wait, name="parent", daemon=True).start()
