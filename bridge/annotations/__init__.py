"""What was drawn: classes, GeoJSON, regions, and QuPath's coordinates."""
