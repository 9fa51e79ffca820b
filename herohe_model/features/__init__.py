"""Files of patch features: read as TRIDENT, STAMP and CLAM leave them, written as TRIDENT does."""
