"""Clients of a llama.cpp server. The public names are those of `llamatelemetry.llama`."""
