"""The text of `/metrics`: written for what has changed, byte for byte as prometheus_client would."""
