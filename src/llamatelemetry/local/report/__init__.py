"""What was recorded as one self-contained HTML page, and the same page live."""

from __future__ import annotations

from ._live import LivePage
from ._page import render, write_report
from ._sources import Recorded, read_recorded

__all__ = ["LivePage", "Recorded", "read_recorded", "render", "write_report"]
