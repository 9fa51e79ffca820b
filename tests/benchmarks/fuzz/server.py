"""Mutated messages and raw bytes against a server process on this machine.

Run by hand: ``PYTHONPATH=tests python tests/benchmarks/fuzz/server.py --messages 10000 --seed 0``. It prints
crashes, the longest time that another client waited (over 10 s is a hang), exceptions of a kind that nobody
foresaw, and the server's memory: it must come back to within 200 MiB of where it was, and never be 1 GiB
over it. Exit code 1 if one of them is wrong.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from helpers.server_fuzz import fuzz
from helpers.server_process import MIB, server_process

SETTLE_S = 60.0


def main() -> None:
    """Fuzz one server, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HEROHE_RUNTIME_DIR"] = str(Path(folder, "run"))
        with server_process(Path(folder, "server")) as server:
            Path(folder, "server", "gate").touch()
            report = fuzz(server, args.messages, args.seed)
            after = server.note_memory() if not report.crashed else 0
            until = time.monotonic() + SETTLE_S
            while (
                not report.crashed and after - report.memory_before > 200 * MIB and time.monotonic() < until
            ):
                time.sleep(1)
                after = server.memory
            code = server.process.poll()
    print(f"{report.sent} messages, seed {args.seed}: {'CRASHED' if report.crashed else 'no crash'} ({code})")
    print(f"another client waited {report.slowest_s:.2f} s at most")
    print("replies:", ", ".join(f"{kind} {count}" for kind, count in report.replies.most_common()))
    for problem in sorted(set(report.unforeseen)):
        print("UNFORESEEN:", problem[:500])
    before, highest = report.memory_before, server.highest
    print(f"memory, MiB: {before / MIB:.0f} before, {highest / MIB:.0f} at most, {after / MIB:.0f} after")
    bad = after - before > 200 * MIB or highest - before > 1024 * MIB
    sys.exit(int(report.crashed or report.hung or bool(report.unforeseen) or bad))


if __name__ == "__main__":
    main()
