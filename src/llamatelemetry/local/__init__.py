"""The embedded backend: an OTLP receiver on loopback, and a store in one SQLite file."""
