"""Card, weights, network and device: what a model is, and how it is read and written."""
