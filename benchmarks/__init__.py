"""What observing a request costs."""
