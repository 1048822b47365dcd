"""`llamatelemetry doctor`: check installation, configuration and export endpoints."""

from __future__ import annotations

from llamatelemetry.cli.doctor.diagnose import run_doctor

__all__ = ["run_doctor"]
