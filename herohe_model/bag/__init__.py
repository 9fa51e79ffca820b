"""Bag models: a region's patches, as an encoder sees them, pooled into ordinal logits."""
