"""How a run is shown and stopped in a terminal."""
