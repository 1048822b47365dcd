"""Parsers of requests and responses, one module per protocol. Pure functions of JSON or models."""
