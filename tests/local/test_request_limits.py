"""Limits of export requests: requests that need much more memory than they have bytes."""

from __future__ import annotations

import gzip
import json
import socket
import subprocess
import sys
import textwrap
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from http import HTTPStatus
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from llamatelemetry.local.otlp import MalformedError, RejectedError
from llamatelemetry.local.request_limits import (
    MAX_BODY_BYTES,
    MAX_FIELDS,
    MAX_JSON_BYTES,
    BodyBudget,
    check_complexity,
    decompress,
)

MIB = 1024**2
EMPTY_FIELD = b"\x0a\x00"


def request_with(spans: int, attributes: int) -> bytes:
    """Return a request with spans that have attributes of different types."""
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    for number in range(spans):
        span = scope.spans.add(name=f"span {number}", start_time_unix_nano=2**63, flags=1)
        for index in range(attributes):
            value = span.attributes.add(key=f"attribute {index}").value
            value.int_value = index
    return request.SerializeToString()


def nested(field: bytes, inner: bytes) -> bytes:
    """Return a field that contains a message."""
    size, length = len(inner), b""
    while size >= 0x80:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    return field + length + bytes([size]) + inner


EMPTY_MESSAGES = EMPTY_FIELD * (MAX_FIELDS + 1)
# One span with very many empty attributes.
EMPTY_ATTRIBUTES = nested(b"\x0a", nested(b"\x12", nested(b"\x12", b"\x4a\x00" * (MAX_FIELDS + 1))))


@pytest.mark.parametrize("body", [EMPTY_MESSAGES, EMPTY_ATTRIBUTES])
def test_request_with_too_many_fields_is_rejected(body: bytes) -> None:
    with pytest.raises(RejectedError, match="number of fields") as rejected:
        check_complexity("traces", body)
    assert rejected.value.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE


def test_large_batch_of_collector_is_accepted() -> None:
    body = request_with(spans=8192, attributes=20)
    assert len(body) > 2 * MAX_FIELDS  # small bodies are not searched
    check_complexity("traces", body)


def test_large_texts_are_accepted() -> None:
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    text = "\n\0" * 100_000  # the bytes of empty fields
    for _ in range(100):
        scope.spans.add().attributes.add(key="prompt").value.string_value = text
    check_complexity("traces", request.SerializeToString())


@pytest.mark.parametrize("tail", [b"\xff", b"\x0a\xff\xff\xff\xff\x0f", b"\x0b" * 9, b"\x0a"])
def test_malformed_request_is_left_to_the_parser(tail: bytes) -> None:
    check_complexity("traces", nested(b"\x52", b"x" * 3 * MAX_FIELDS) + tail)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{}," * (MAX_FIELDS + 1), "number of fields"),
        (b"[" * (MAX_FIELDS + 1), "number of fields"),
        (b'"a",' * (3 * MAX_FIELDS), "number of fields"),
        (b"1" * (MAX_JSON_BYTES + 1), "JSON body"),
    ],
    ids=["objects", "arrays", "texts", "size"],
)
def test_json_that_needs_much_memory_is_rejected(body: bytes, message: str) -> None:
    with pytest.raises(RejectedError, match=message):
        check_complexity("traces", body, is_json=True)


def test_json_of_usual_size_is_accepted() -> None:
    attribute = {"key": "name", "value": {"stringValue": "x" * 50}}
    spans = [{"name": "work", "attributes": [attribute] * 20}] * 4096
    check_complexity("traces", json.dumps(spans).encode(), is_json=True)


@pytest.mark.parametrize(("encoding", "wbits"), [("gzip", 31), ("deflate", 15)])
def test_decompress_rejects_body_above_limit(encoding: str, wbits: int) -> None:
    def compressed(sizes: Iterable[int]) -> bytes:
        compressor = zlib.compressobj(1, zlib.DEFLATED, wbits)
        return b"".join([*(compressor.compress(bytes(s)) for s in sizes), compressor.flush()])

    whole = [MIB] * (MAX_BODY_BYTES // MIB)
    assert decompress(compressed(whole), encoding) == bytes(MAX_BODY_BYTES)
    with pytest.raises(RejectedError, match="decompressed"):
        decompress(compressed([*whole, 1]), encoding)


def test_decompress_raises_for_truncated_body() -> None:
    with pytest.raises(MalformedError, match="truncated"):
        decompress(gzip.compress(b"text")[:-4], "gzip")


def test_decompress_raises_for_data_that_it_would_lose() -> None:
    with pytest.raises(MalformedError, match="other data follows the gzip body"):
        decompress(gzip.compress(b"first") + gzip.compress(b"second"), "gzip")
    assert decompress(gzip.compress(b"first") + bytes(8), "gzip") == b"first"


def test_body_budget_rejects_large_body_when_others_use_it(monkeypatch) -> None:
    monkeypatch.setattr("llamatelemetry.local.request_limits._WAIT_S", 0.01)
    budget = BodyBudget(4 * MIB)
    with budget.reserve(3 * MIB):
        with budget.reserve(MIB):  # small bodies do not count
            pass
        with pytest.raises(RejectedError) as rejected, budget.reserve(2 * MIB):
            pass
        assert rejected.value.status == HTTPStatus.SERVICE_UNAVAILABLE
    with budget.reserve(4 * MIB):
        pass


RECEIVER = textwrap.dedent(
    """
    import re, sys
    from pathlib import Path
    from llamatelemetry.local.receiver import Receiver
    from llamatelemetry.local.store import Store
    receiver = Receiver(Store(sys.argv[1]))
    receiver.start()
    print(receiver.url, flush=True)
    sys.stdin.read()
    # `ru_maxrss` would include the memory of the process that has started this one.
    print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1], flush=True)
    """
)


def post(url: str, body: bytes, kind: str) -> int:
    """Send a compressed export request, and return the status of the response."""
    host, port = url.removeprefix("http://").split(":")
    head = (
        f"POST /v1/traces HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/{kind}\r\n"
        f"Content-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + body)
        return int(connection.recv(1000).split()[1])


def bombs() -> Iterator[tuple[bytes, str]]:
    """Yield small bodies that expand to very large ones, with their content type."""
    for unit, kind in ((bytes(MIB), "x-protobuf"), (EMPTY_FIELD * (MIB // 2), "x-protobuf")):
        compressor = zlib.compressobj(9, zlib.DEFLATED, 31)
        repeated = [compressor.compress(unit) for _ in range(63)]
        yield b"".join([*repeated, compressor.flush()]), kind
    yield gzip.compress(b"[" + b"{}," * (5 * MIB) + b"{}]"), "json"
    yield gzip.compress(bytes(300 * MIB), 1), "x-protobuf"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_compressed_bombs_do_not_exhaust_memory_of_receiver(tmp_path: Path) -> None:
    with ExitStack() as stack:
        receiver = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", RECEIVER, str(tmp_path / "run.db")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        assert receiver.stdin is not None
        assert receiver.stdout is not None
        url = receiver.stdout.readline().strip()
        statuses = [post(url, *bomb) for bomb in bombs()]
        receiver.stdin.close()
        peak = int(receiver.stdout.readline()) * 1024
        receiver.terminate()
    assert statuses == [413] * 4
    assert peak < 350 * MIB
