"""A loaded model at work: the scorer, the choice of an engine, PyTorch and OpenVINO."""
