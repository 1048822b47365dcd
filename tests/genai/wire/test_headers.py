"""Headers are found and added as the libraries themselves would, whatever keeps them."""

from __future__ import annotations

import httpx
import httpx2
import pytest
from opentelemetry.trace import SpanContext, TraceFlags
from requests.structures import CaseInsensitiveDict

from llamatelemetry.genai import provider_from_headers
from llamatelemetry.genai.propagation import Propagation
from llamatelemetry.genai.wire.headers import has_list

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


SPAN = SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(1))
WRITTEN = f"00-{1:032x}-{2:016x}-01"


def inject(headers):
    Propagation("on").inject(headers, None, None, SPAN)


@pytest.mark.parametrize("kind", [*KINDS, RenamedList])
def test_a_header_is_found_whatever_its_case(kind):
    assert provider_from_headers(kind({"Accept": "*/*", "ServEr": "llama.cpp"})) == "llama_cpp"
    assert provider_from_headers(kind({"Accept": "*/*", "Server": "nginx"})) is None
    assert provider_from_headers(kind({"Via": "llama.cpp"})) is None
    assert provider_from_headers(kind({"Via": "llama.cpp", "Server": "nginx"})) is None
    given = kind({"TraceParent": "somebody's"})
    inject(given)
    assert given.get("traceparent") == "somebody's"


@pytest.mark.parametrize("kind", KINDS)
def test_an_added_header_is_like_any_other(kind):
    by_library, ours = kind({"Accept": "*/*"}), kind({"Accept": "*/*"})
    by_library["traceparent"] = WRITTEN
    inject(ours)
    assert ours == by_library
    assert list(ours.items()) == list(by_library.items())
    assert ours["TraceParent"] == WRITTEN
    del ours["traceparent"]
    assert ours == kind({"Accept": "*/*"})


@pytest.mark.parametrize("kind", KINDS)
def test_empty_headers_are_no_exception(kind):
    assert provider_from_headers(kind()) is None
    given = kind()
    inject(given)
    assert dict(given) == {"traceparent": WRITTEN}


def test_the_list_of_names_is_used_where_it_is_known_and_nowhere_else():
    """Or each look costs as much as all else: see what has changed in httpx."""
    for known in (httpx.Headers, httpx2.Headers):
        assert has_list(known)
    for unknown in (CaseInsensitiveDict, RenamedList):
        assert not has_list(unknown)
    given = RenamedList()
    inject(given)
    assert given.get("traceparent") == WRITTEN


@pytest.mark.parametrize("kind", [httpx.Headers, httpx2.Headers])
def test_of_several_headers_of_a_name_the_first_counts(kind):
    signed, other = (b"Server", b"llama.cpp"), (b"server", "na\xefve".encode("latin-1"))
    assert provider_from_headers(kind([signed, other])) == "llama_cpp"
    assert provider_from_headers(kind([other, signed])) is None
