"""QuPath's own files and its Java machine: the only room that knows Java."""
