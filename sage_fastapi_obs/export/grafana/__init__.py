"""Dashboards and provisioning for Grafana, made from the settings and the catalog of metrics."""

from sage_fastapi_obs.export.grafana.files import dashboards, files

__all__ = ["dashboards", "files"]
