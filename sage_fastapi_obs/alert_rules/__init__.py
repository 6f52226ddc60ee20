"""Alert rules for Prometheus, each with its test: those of any service. A pack's are in `packs/<name>/alert_rules.py`."""
