"""Windows over the metrics, rules, alerts, service levels and notifications."""
