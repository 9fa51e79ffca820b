"""What both ends of a socket need: endpoints, keys, discovery, shared pixels, child processes."""
