"""Streams: wrappers that observe chunks in place, and accumulators that build the response."""
