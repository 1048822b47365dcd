"""Graphs of executed traces: the data structure, and the span processor that builds it."""
