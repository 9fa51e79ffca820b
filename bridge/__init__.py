"""QuPath, ZeroMQ and the command line around :mod:`herohe_model`."""

from herohe_model import __version__

__all__ = ["__version__"]
