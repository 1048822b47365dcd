"""The report of a recording: a self-contained HTML page, or the same page updated live."""

from llamatelemetry.local.recording import Recording, read_recorded
from llamatelemetry.local.report.live import LivePage
from llamatelemetry.local.report.page import page_beside, render, write_report

__all__ = ["LivePage", "Recording", "page_beside", "read_recorded", "render", "write_report"]
