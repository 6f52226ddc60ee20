"""What dashboards show: those of any service. A pack's are in `packs/<name>/dashboard.py`."""
