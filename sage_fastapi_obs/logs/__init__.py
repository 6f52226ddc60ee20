"""Log lines: what is in them, when they are written, and where they go."""
