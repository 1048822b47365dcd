"""What the fuzzer runs: functions that read data of servers, drivers, senders and users.

Each target has inputs to start from, which are true or valid, and a check. The check passes any bytes to
the functions. They may raise only what they document, and what they return must be exportable.
`scripts/fuzz.py` runs the targets with coverage guidance.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import math
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from llamatelemetry.config import OPTIONS, LlamaTelemetryConfig, mask_urls
from llamatelemetry.config.otel_variables import corrected_variables
from llamatelemetry.gpu import GpuUnavailableError, NvmlReader
from llamatelemetry.gpu.reader import GpuLostError
from llamatelemetry.llama import ServerConfig
from llamatelemetry.local.otlp import MalformedError, RejectedError, parse_request, records_of
from llamatelemetry.local.request_limits import check_complexity, decompress
from llamatelemetry.server_metrics.target import parse_target
from tests.support import fuzz_replies, nvml
from tests.support.fuzz_replies import check_value


class Target(NamedTuple):
    """A target: inputs to start from, the check, and whether mutations keep the types of values."""

    inputs: Callable[[], list[bytes]]
    check: Callable[[bytes], None]
    keep_types: bool = False


# OTLP


def _requests() -> list[bytes]:
    value = {"stringValue": "v"}
    values = [
        value,
        *({"intValue": "7"}, {"doubleValue": 0.5}, {"boolValue": True}, {"bytesValue": "AAAA"}),
        {"arrayValue": {"values": [value]}},
        {"kvlistValue": {"values": [{"key": "a", "value": value}]}},
    ]
    attributes = [{"key": f"k{number}", "value": each} for number, each in enumerate(values)]
    ids = {"traceId": "0" * 31 + "1", "spanId": "0" * 15 + "2"}
    times = {"startTimeUnixNano": "1", "endTimeUnixNano": "2"}
    span = {**ids, "parentSpanId": "", "name": "s", "kind": 3, **times, "attributes": attributes}
    span |= {"events": [{"name": "e", "timeUnixNano": "1"}], "links": [ids], "status": {"code": 2}}
    point = {"timeUnixNano": "2", "attributes": attributes}
    metrics = [
        {"name": "g", "gauge": {"dataPoints": [{**point, "asDouble": 0.5}]}},
        {"name": "c", "sum": {"dataPoints": [{**point, "asInt": "7"}], "isMonotonic": True}},
        {
            "name": "h",
            "histogram": {
                "dataPoints": [
                    {**point, "count": "1", "sum": 1, "explicitBounds": [1], "bucketCounts": ["1"]}
                ]
            },
        },
        {"name": "e", "exponentialHistogram": {"dataPoints": [{**point, "count": "1"}]}},
        {"name": "q", "summary": {"dataPoints": [{**point, "count": "1", "sum": 1}]}},
    ]
    log = {**ids, "timeUnixNano": "1", "severityNumber": 9, "body": value, "attributes": attributes}
    resource = {"resource": {"attributes": attributes}}
    scope = {"scope": {"name": "x"}}
    requests = {
        "traces": {"resourceSpans": [{**resource, "scopeSpans": [{**scope, "spans": [span]}]}]},
        "metrics": {
            "resourceMetrics": [{**resource, "scopeMetrics": [{**scope, "metrics": metrics}]}]
        },
        "logs": {"resourceLogs": [{**resource, "scopeLogs": [{**scope, "logRecords": [log]}]}]},
    }
    as_json = {signal: json.dumps(request).encode() for signal, request in requests.items()}
    return [
        *as_json.values(),
        *(
            parse_request(signal, body, is_json=True).SerializeToString()
            for signal, body in as_json.items()
        ),
    ]


def _check_otlp(data: bytes) -> None:
    with suppress(MalformedError, RejectedError):
        decompress(data, "gzip")
    for signal in ("traces", "metrics", "logs"):
        with suppress(MalformedError, RejectedError):
            is_json = data.startswith(b"{")
            check_complexity(signal, data, is_json=is_json)
            for record in records_of(signal, parse_request(signal, data, is_json=is_json)):
                # The database keeps JSON in UTF-8, and signed integers.
                json.dumps(dataclasses.asdict(record), ensure_ascii=False).encode()


# Configuration


def _configuration() -> list[bytes]:
    values = [
        *("true", "7", "0.5", "http://localhost:4318", "a=b,c=d", "[4, 5]", '["a", "b+"]', "chat"),
        *("user:password@host:1/x?model=m", "only_errors,ratio", "https://[::1]:1/metrics", "(a|b"),
        *(
            "otlp,console",
            "email, phone",
            "gen_ai_latest_experimental/dup",
            "1,2,5",
            "/tmp/x",
            "{}",
        ),
    ]
    return [each.encode() for each in values]


def _check_configuration(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape").strip().replace("\0", "")
    mask_urls(text)
    with suppress(ValueError):
        parse_target(text)
    parsed: Any = text
    with suppress(ValueError, RecursionError):
        parsed = json.loads(text)
    variables: list[str] = []
    for name, option in OPTIONS.items():
        for given in (text, parsed):
            with suppress(ValueError):
                LlamaTelemetryConfig(**{name: given})
        with suppress(ValueError):
            option.parser.parse(text)
        option.invalid_value_message(name, text)
        variables += option.otel_variables
        if option.parse_otel is not None:
            with suppress(ValueError):
                option.parse_otel(dict.fromkeys(option.otel_variables, text))
    # One of them, because the check of a plugin's name takes a millisecond.
    corrected_variables({variables[sum(data) % len(variables)]: text})


# GPUs


def _drivers() -> list[bytes]:
    machines = [nvml.one_gpu(), nvml.with_mig(), nvml.answers_almost_nothing()]
    return [json.dumps(each).encode() for each in machines]


@cache
def _driver() -> nvml.Driver:
    folder = Path(tempfile.mkdtemp(prefix="llamatelemetry-fuzz-"))
    ctypes.CDLL(str(nvml.compiled(folder / "libnvidia-ml.so.1")))
    return nvml.Driver(folder, {})


def _check_nvml(data: bytes) -> None:
    driver = _driver()
    try:
        driver.machine = json.loads(data)
    except ValueError:
        return
    driver.write()
    reader = NvmlReader()
    with pytest.MonkeyPatch.context() as patch, suppress(GpuUnavailableError):
        # Undone afterwards: later tests of this process have no GPUs.
        patch.setenv("NVML_DEVICES", str(driver.file))
        devices = reader.open()
        try:
            for device in devices:
                check_value(device, "device")
                with suppress(GpuLostError):
                    check_value(reader.state(device), "state")
                    check_value(reader.details(device), "details")
                    check_value(reader.processes(device), "processes")
        finally:
            reader.close()


# GGUF


def _models() -> list[bytes]:
    return [b"GGUF\x03\0\0\0" + bytes(16), b"GGU", b"GGML" + bytes(8)]


@cache
def _model_file() -> Path:
    return Path(tempfile.mkdtemp(prefix="llamatelemetry-fuzz-")) / "model.gguf"


def _check_model(data: bytes) -> None:
    path = _model_file()
    path.write_bytes(data)
    with suppress(ValueError):
        ServerConfig(path)
        assert math.isfinite(path.stat().st_size)


TARGETS: Mapping[str, Target] = {
    "bodies": Target(fuzz_replies.bodies, fuzz_replies.check_body),
    "tool_calls": Target(fuzz_replies.tool_calls, fuzz_replies.check_tool_calls),
    "streams": Target(fuzz_replies.streams, fuzz_replies.check_stream),
    "calls": Target(
        lambda: [*fuzz_replies.streams(), *fuzz_replies.engine_bodies()], fuzz_replies.check_calls
    ),
    "headers": Target(fuzz_replies.headers, fuzz_replies.check_headers),
    "metrics": Target(fuzz_replies.metrics_texts, fuzz_replies.check_metrics),
    "otlp": Target(_requests, _check_otlp),
    "configuration": Target(_configuration, _check_configuration),
    "nvml": Target(_drivers, _check_nvml, keep_types=True),
    "gguf": Target(_models, _check_model),
}
