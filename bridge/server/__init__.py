"""The model server: front end, broker, and a pool of worker processes."""
