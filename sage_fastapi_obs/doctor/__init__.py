"""What is wrong with the observability of an app, found by looking at it and by asking it, and what to change."""
