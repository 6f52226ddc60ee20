"""What happens to a request; nothing here knows a signal."""
