"""The model server: frontend, broker, and a pool of worker processes."""
