"""URLs without secrets, for messages."""

from __future__ import annotations

import pytest

from llamatelemetry.config import mask_url, mask_urls


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://host:4318/v1/traces", "http://host:4318/v1/traces"),
        ("collector:4317", "collector:4317"),
        ("http://user:pw@host:4318", "http://***@host:4318"),
        ("user:pw@host:4317", "***@host:4317"),
        ("http://user:p@ss@host", "http://***@host"),
        ("http://user:p/s#s@host", "http://***@host"),
        ("https://host/v1?api_key=pw&x=1", "https://host/v1?api_key=***&x=***"),
        ("https://host/v1?pw", "https://host/v1?***"),
        ("https://host/v1?a=pw;b=pw#token=pw", "https://host/v1?a=***;b=***#token=***"),
        ("host:4317?key=pw", "host:4317?key=***"),
        ("", ""),
    ],
)
def test_mask_url_masks_credentials_and_values_of_query(url: str, shown: str) -> None:
    assert mask_url(url) == shown


def test_mask_urls_masks_each_url_in_a_text() -> None:
    text = "['http://u:pw@a/?k=pw', \"https://b?pw\"], key=x, (?:a@b)"
    assert mask_urls(text) == "['http://***@a/?k=***', \"https://b?***\"], key=x, (?:a@b)"
