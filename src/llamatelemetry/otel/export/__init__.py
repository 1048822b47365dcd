"""Exporters of llamatelemetry, and monitoring of the exporters of the SDK."""
