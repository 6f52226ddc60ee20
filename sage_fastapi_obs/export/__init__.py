"""What other systems load, written from settings, catalog and rules: Prometheus, Alertmanager, Kubernetes, Grafana."""
