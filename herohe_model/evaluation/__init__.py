"""How good predictions are, and the page that says so."""
