"""Older names of metrics."""
