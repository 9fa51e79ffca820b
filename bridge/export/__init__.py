"""Tables, GeoJSON and features for other tools."""
