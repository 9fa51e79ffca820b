"""Public cohorts: from a folder as it was downloaded to slides, regions and labels for train and score."""
