"""Graphs of pipelines, traces and GPUs: on a Graphistry server, or else as a page of their own."""

from __future__ import annotations

from ._viz import GraphistryViz

__all__ = ["GraphistryViz"]
