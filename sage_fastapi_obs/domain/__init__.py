"""What the application's author calls."""
