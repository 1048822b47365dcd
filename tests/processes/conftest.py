"""Fixtures for tests with processes of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.model_server import model_server


@pytest.fixture
def model() -> Iterator[str]:
    with model_server() as url:
        yield url
