"""Patch encoders: which are known, their weights on this machine, and the networks they make."""
