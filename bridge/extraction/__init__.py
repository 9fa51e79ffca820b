"""Slides and their regions become files of patch features."""
