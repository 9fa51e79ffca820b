"""The HEROHE method: slides, patches, composites, the ordinal network and the model file.

Nothing in this package knows of QuPath, sockets or the command line.
"""

import os

# OpenMP's threads wait by spinning unless told otherwise before PyTorch is loaded; beside the threads that
# read slides, or any other busy program, that made scoring ten times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
