"""Managed llama.cpp servers. The public names are those of `llamatelemetry.llama`."""
