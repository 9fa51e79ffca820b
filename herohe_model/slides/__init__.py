"""A slide file and its pixels."""
