"""Health checks, readiness, and the beginning of a shutdown."""
