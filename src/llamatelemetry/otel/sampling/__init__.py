"""Sampling of traces: rules, head samplers and the tail sampler."""
