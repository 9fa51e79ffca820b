"""The HEROHE data: cases, labels, folds, predictions, submission."""
