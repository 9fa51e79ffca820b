"""Training: one network, cross-validation, and going on after a stop."""
