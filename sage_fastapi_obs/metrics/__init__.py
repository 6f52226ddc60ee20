"""Metrics of HTTP, of the process and of applications, on the registry of one `Observability`."""
