"""The embedded backend: an OTLP receiver on loopback, an SQLite database, and an HTML report."""
