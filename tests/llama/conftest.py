"""Fixtures of the llama.cpp tests."""

from __future__ import annotations

from tests.support.llama_programs import any_program, program, real_cli

__all__ = ["any_program", "program", "real_cli"]
