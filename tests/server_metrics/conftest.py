"""Fixtures of the server metrics tests."""

from __future__ import annotations

from tests.llama.programs import program

__all__ = ["program"]
