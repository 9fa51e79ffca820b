"""The HEROHE method: slides, patches, composites, the ordinal network and the model file.

Nothing in this package knows of QuPath, sockets or the command line.
"""

__version__ = "0.1.0"
