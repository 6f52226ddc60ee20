"""The business pack: customers and their activity."""
