"""Statistics, comparison of two benchmarks, and warnings about the validity of a measurement."""
