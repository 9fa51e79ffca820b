"""What a result writes onto a slide, decided once for every writer."""
