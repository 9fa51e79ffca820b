"""Reach, find or start a model server, and score through it."""
