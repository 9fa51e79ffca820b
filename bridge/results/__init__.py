"""The result of a slide, its files, and a finished run."""
