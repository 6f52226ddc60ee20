"""Calls of what the application depends on: other services, databases and brokers."""
