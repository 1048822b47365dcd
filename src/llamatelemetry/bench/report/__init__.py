"""Presentation of results: tables, plots, HTML pages and the progress bar."""
