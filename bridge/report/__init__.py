"""The page of a run, with its templates."""
