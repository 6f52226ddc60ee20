"""What operators open."""
