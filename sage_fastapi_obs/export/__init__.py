"""What other systems load."""
