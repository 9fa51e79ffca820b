"""Damaged files of annotations: python tests/benchmarks/fuzz/annotations.py [COUNT] [SEED].

Ends with an error at the first that is neither read nor refused with an error of ours.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from helpers.parser_fuzz import annotation_cases, run_cases

if __name__ == "__main__":
    count, seed = (*map(int, sys.argv[1:]), 2000, 1)[:2] if len(sys.argv) < 3 else map(int, sys.argv[1:3])
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        print(run_cases(annotation_cases(Path(folder), seed), count))
