"""The first part of the pack `sage`, for a service that begins with it."""
