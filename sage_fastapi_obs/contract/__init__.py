"""What a service promises to those who read its telemetry, and which of them a change breaks."""
