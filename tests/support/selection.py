"""Marks for the rows of parametrized tests that are slow."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def slow_except(fast: Collection[Any], rows: Iterable[Any]) -> list[Any]:
    """Return the rows, each marked `slow` unless it is one of the fast ones.

    A test that drives whole programs in many variants keeps one or two fast ones; all variants
    run with `scripts/test --all`.
    """

    def slow(row: Any) -> Any:
        return pytest.param(*(row if isinstance(row, tuple) else (row,)), marks=pytest.mark.slow)

    return [row if row in fast else slow(row) for row in rows]
