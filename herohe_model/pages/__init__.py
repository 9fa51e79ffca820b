"""Self-contained pages and their charts."""
