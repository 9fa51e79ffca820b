"""Slides that OpenSlide opens, drawn here: for the demo, for choosing an engine, and for tests."""
