"""Metrics and functions for one kind of service each, switched on by `metrics.packs`."""
