"""The embedded store: kept requests with their spans and lines, in one SQLite file for each service of a machine."""
