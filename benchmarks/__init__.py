"""What observing a request costs, beside what the peers cost."""
