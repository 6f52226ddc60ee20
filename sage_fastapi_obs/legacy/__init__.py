"""Older names of metrics and settings."""
