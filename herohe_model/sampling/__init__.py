"""Which patches of a slide are judged, and the composites made of them."""
