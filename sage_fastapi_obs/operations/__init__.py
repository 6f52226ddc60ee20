"""Named pieces of work, and metrics of the application's own."""
