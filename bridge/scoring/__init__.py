"""One slide and its regions become a result."""
