"""Sending to servers: bounded queues, retries, deadlines, and a count of what is lost."""
