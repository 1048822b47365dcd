"""Benchmark targets: adapters for each kind of client, and the measurement of one request."""
