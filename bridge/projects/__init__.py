"""A QuPath project or a folder of slides: one face, two kinds, one way to open either."""
