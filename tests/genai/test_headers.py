"""Headers are found and added as the libraries themselves would, whatever keeps them."""

from __future__ import annotations

import httpx
import httpx2
import pytest
from requests.structures import CaseInsensitiveDict

from llamatelemetry.genai import headers as under_test
from llamatelemetry.genai.headers import add_header, has_header, header

KINDS = [httpx.Headers, httpx2.Headers, CaseInsensitiveDict]


class RenamedList(httpx2.Headers):
    """What a later httpx2 may look like."""

    __module__ = "httpx2"

    def __init__(self, headers=None):
        super().__init__(headers)
        self.__dict__["_entries"] = self.__dict__.pop("_list")

    def __getattr__(self, name):
        raise AttributeError(name)

    def __contains__(self, key):
        return key.lower().encode() in [lowered for _, lowered, _ in self._entries]

    def __setitem__(self, key, value):
        self._entries.append((key.encode(), key.lower().encode(), value.encode()))

    def get(self, key, default=None):
        found = [value for _, lowered, value in self._entries if lowered == key.encode()]
        return found[0].decode() if found else default


@pytest.mark.parametrize("kind", [*KINDS, RenamedList])
def test_a_header_is_found_whatever_its_case(kind):
    given = kind({"Accept": "*/*", "ServEr": "llama.cpp"})
    assert has_header(given, "server")
    assert header(given, "server") == "llama.cpp"
    assert not has_header(given, "serve")
    assert header(given, "traceparent") is None


@pytest.mark.parametrize("kind", KINDS)
def test_an_added_header_is_like_any_other(kind):
    by_library, ours = kind({"Accept": "*/*"}), kind({"Accept": "*/*"})
    by_library["traceparent"] = "00-1-2-01"
    add_header(ours, "traceparent", "00-1-2-01")
    assert ours == by_library
    assert list(ours.items()) == list(by_library.items())
    assert ours["TraceParent"] == "00-1-2-01"
    del ours["traceparent"]
    assert ours == kind({"Accept": "*/*"})


@pytest.mark.parametrize("kind", KINDS)
def test_empty_headers_are_no_exception(kind):
    given = kind()
    assert not has_header(given, "traceparent")
    add_header(given, "traceparent", "00-1-2-01")
    assert dict(given) == {"traceparent": "00-1-2-01"}


def test_the_list_of_names_is_used_where_it_is_known_and_nowhere_else():
    """Or each look costs as much as all else: see what has changed in httpx."""
    assert under_test._is_kept_as_list(httpx.Headers)
    assert under_test._is_kept_as_list(httpx2.Headers)
    assert not under_test._is_kept_as_list(CaseInsensitiveDict)
    assert not under_test._is_kept_as_list(RenamedList)
    given = RenamedList()
    add_header(given, "traceparent", "00-1-2-01")
    assert has_header(given, "traceparent")


@pytest.mark.parametrize("value", ["na\xefve", "日本".encode().decode("latin-1")])
def test_a_value_in_any_bytes_is_given(value):
    given = httpx2.Headers([(b"server", value.encode("latin-1"))])
    assert header(given, "server") == value
