"""The whole system on synthetic slides."""
