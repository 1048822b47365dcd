"""Reading and adding headers in the header classes of httpx, httpx2 and requests."""

from __future__ import annotations

import httpx
import httpx2
import pytest
from opentelemetry.trace import SpanContext, TraceFlags
from requests.structures import CaseInsensitiveDict

from llamatelemetry.genai import provider_from_headers
from llamatelemetry.genai.propagation import Propagation
from llamatelemetry.genai.wire.headers import has_list, header_attributes

HEADER_CLASSES = [httpx.Headers, httpx2.Headers, CaseInsensitiveDict]


class HeadersWithRenamedList(httpx2.Headers):
    """Headers of a possible later httpx2, which renames its private list."""

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
        values = [value for _, lowered, value in self._entries if lowered == key.encode()]
        return values[0].decode() if values else default


SPAN = SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(1))
TRACEPARENT = f"00-{1:032x}-{2:016x}-01"


def inject(headers):
    Propagation("on").inject(headers, None, None, SPAN)


@pytest.mark.parametrize("headers_class", [*HEADER_CLASSES, HeadersWithRenamedList])
def test_headers_are_found_regardless_of_case(headers_class):
    assert (
        provider_from_headers(headers_class({"Accept": "*/*", "ServEr": "llama.cpp"}))
        == "llama_cpp"
    )
    assert provider_from_headers(headers_class({"Accept": "*/*", "Server": "nginx"})) is None
    assert provider_from_headers(headers_class({"Via": "llama.cpp"})) is None
    assert provider_from_headers(headers_class({"Via": "llama.cpp", "Server": "nginx"})) is None
    headers = headers_class({"TraceParent": "of the application"})
    inject(headers)
    assert headers.get("traceparent") == "of the application"


@pytest.mark.parametrize("headers_class", HEADER_CLASSES)
def test_injected_header_equals_header_set_by_library(headers_class):
    expected, injected = headers_class({"Accept": "*/*"}), headers_class({"Accept": "*/*"})
    expected["traceparent"] = TRACEPARENT
    inject(injected)
    assert injected == expected
    assert list(injected.items()) == list(expected.items())
    assert injected["TraceParent"] == TRACEPARENT
    del injected["traceparent"]
    assert injected == headers_class({"Accept": "*/*"})


@pytest.mark.parametrize("headers_class", HEADER_CLASSES)
def test_inject_adds_traceparent_to_empty_headers(headers_class):
    assert provider_from_headers(headers_class()) is None
    headers = headers_class()
    inject(headers)
    assert dict(headers) == {"traceparent": TRACEPARENT}


def test_has_list_is_true_for_known_header_classes_only():
    """A failure means that httpx has renamed its list. Lookups then take most of a call's time."""
    for known_class in (httpx.Headers, httpx2.Headers):
        assert has_list(known_class)
    for unknown_class in (CaseInsensitiveDict, HeadersWithRenamedList):
        assert not has_list(unknown_class)
    headers = HeadersWithRenamedList()
    inject(headers)
    assert headers.get("traceparent") == TRACEPARENT


@pytest.mark.parametrize("headers_class", [httpx.Headers, httpx2.Headers])
def test_first_of_several_headers_with_one_name_is_used(headers_class):
    llama_cpp, other = (b"Server", b"llama.cpp"), (b"server", "na\xefve".encode("latin-1"))
    assert provider_from_headers(headers_class([llama_cpp, other])) == "llama_cpp"
    assert provider_from_headers(headers_class([other, llama_cpp])) is None


@pytest.mark.parametrize("headers_class", [dict, *HEADER_CLASSES])
@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["X-REQUEST-ID"], ["x-request-id"]),
        (["x-limit-*", "server"], ["server", "x-limit-requests", "x-limit-tokens"]),
        (["*"], ["server", "x-limit-requests", "x-limit-tokens", "x-request-id"]),
        (["set-*"], []),
        (["Set-Cookie"], ["set-cookie"]),
        (["x-request"], []),
    ],
)
def test_headers_that_match_a_name_or_a_pattern_are_attributes(headers_class, names, found):
    headers = {
        "Set-Cookie": "session",
        "Server": "nginx",
        "X-Request-Id": "r",
        "X-Limit-Requests": "9",
        "X-Limit-Tokens": "5",
    }
    lowered = {name.lower(): value for name, value in headers.items()}
    assert header_attributes(headers_class(headers), names) == {
        f"http.response.header.{name}": [lowered[name]] for name in found
    }


@pytest.mark.parametrize("headers_class", [httpx.Headers, httpx2.Headers])
def test_repeated_header_has_all_its_values(headers_class):
    headers = headers_class([("Via", "a"), ("via", "b")])
    assert header_attributes(headers, ["via"]) == {"http.response.header.via": ["a", "b"]}
