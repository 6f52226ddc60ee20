"""What may be shown: redaction, JSON-safe values, and the text of exceptions."""
