"""Graphs of pipelines, traces and GPUs, on a Graphistry server or as an HTML page."""

from __future__ import annotations

from llamatelemetry.graphistry._viz import GraphistryViz

__all__ = ["GraphistryViz"]
