"""Log lines: their fields, when they are written, and their outputs."""
