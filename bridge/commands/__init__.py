"""The commands of ``herohe-bridge``, a module each; :mod:`bridge.cli` binds them together."""
