"""Descriptions of exceptions for spans: error type, status and cause, without any content."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from typing import Any

import httpx
import httpx2
import openai
import pydantic
import pytest
import requests
from hypothesis import given

from llamatelemetry.genai import ErrorInfo, describe_error, describe_status
from llamatelemetry.genai.errors import describe_reported_error, find_reported_error
from tests.support.json_strategies import json_values
from tests.support.reported_errors import NOT_ERRORS

SECRET = "swordfish"
REQUEST = httpx2.Request("POST", f"http://localhost:8080/v1/chat/completions?key={SECRET}")


def status_error(error_class: type[openai.APIStatusError], status: int, body: Any) -> BaseException:
    response = httpx2.Response(status, request=REQUEST, json=body)
    return error_class(f"Error code: {status} - {body}", response=response, body=body)


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    """Return the error with a traceback and an optional cause, as an application catches it."""
    try:
        raise error from cause
    except BaseException as caught:
        return caught


LLAMA_CPP = {"code": 400, "message": f"no {SECRET}", "type": "exceed_context_size_error"}
OPENAI = {
    "message": f"no {SECRET}",
    "type": "insufficient_quota",
    "param": SECRET,
    "code": "rate_limit_exceeded",
}


@pytest.mark.parametrize(
    ("error_class", "status", "body", "expected"),
    [
        (
            openai.BadRequestError,
            400,
            LLAMA_CPP,
            ErrorInfo(
                "exceed_context_size_error",
                "openai.BadRequestError: HTTP 400 exceed_context_size_error",
                400,
            ),
        ),
        (
            openai.RateLimitError,
            429,
            OPENAI,
            ErrorInfo(
                "rate_limit_exceeded", "openai.RateLimitError: HTTP 429 rate_limit_exceeded", 429
            ),
        ),
        (
            openai.InternalServerError,
            503,
            {"error": {"code": 503, "message": SECRET, "type": "unavailable_error"}},
            ErrorInfo(
                "unavailable_error", "openai.InternalServerError: HTTP 503 unavailable_error", 503
            ),
        ),
        (
            openai.AuthenticationError,
            401,
            {"error": SECRET, "type": "oauth_error"},
            ErrorInfo("oauth_error", "openai.AuthenticationError: HTTP 401 oauth_error", 401),
        ),
        *(
            (error_class, status, body, ErrorInfo(str(status), f"{name}: HTTP {status}", status))
            for error_class, name, status, body in [
                (openai.NotFoundError, "openai.NotFoundError", 404, {}),
                (openai.ConflictError, "openai.ConflictError", 409, None),
                (openai.BadRequestError, "openai.BadRequestError", 400, SECRET),
                (openai.InternalServerError, "openai.InternalServerError", 500, [SECRET]),
                (openai.APIStatusError, "openai.APIStatusError", 418, {"error": [SECRET]}),
                (openai.BadRequestError, "openai.BadRequestError", 400, {"type": 5, "code": None}),
                (openai.BadRequestError, "openai.BadRequestError", 400, {"code": f"no {SECRET}"}),
                (openai.BadRequestError, "openai.BadRequestError", 400, {"code": SECRET * 8}),
                (openai.BadRequestError, "openai.BadRequestError", 400, {"code": ""}),
            ]
        ),
    ],
)
def test_error_response_has_error_code_of_server_or_status(error_class, status, body, expected):
    described = describe_error(status_error(error_class, status, body))
    assert described == expected
    assert SECRET not in described.description


@pytest.mark.parametrize(
    "code",
    [
        *("context_length_exceeded", "invalid_base64_image", "exceed_context_size_error"),
        *("DeploymentNotFound", "RESOURCE_EXHAUSTED", "Throttling.RateQuota", "InvalidApiKey"),
    ],
)
def test_known_error_code_of_server_is_error_type(code: str) -> None:
    for body in ({"error": {"code": code}}, {"error": {"type": code}}, {"code": code}):
        assert describe_status(400, body) == ErrorInfo(code, f"HTTP 400 {code}", 400)
    assert describe_reported_error({"code": code}).type == code


@pytest.mark.parametrize(
    "identifier",
    [
        *("org-abc123", "user_42", "req_011CSHoEeqs5C35K2UUqR7Fy", "john.doe", "sk-proj-abcdefgh"),
        *("model_llama-3_not_found", "InvalidJohn", "invalid request", "d" * 65, "", "-", "4711"),
    ],
)
def test_identifier_in_error_code_of_server_is_not_recorded(identifier: str) -> None:
    error = {"code": identifier, "type": identifier}
    assert describe_status(400, {"error": error}) == ErrorInfo("400", "HTTP 400", 400)
    reported = describe_reported_error(error)
    assert (reported.type, reported.description) == ("_OTHER", "reported by the server: _OTHER")
    exception = status_error(openai.BadRequestError, 400, error)
    assert describe_error(exception) == ErrorInfo("400", "openai.BadRequestError: HTTP 400", 400)


def test_error_inside_stream_has_code_and_no_status():
    body = {"code": 500, "message": SECRET, "type": "server_error"}
    assert describe_error(openai.APIError(SECRET, REQUEST, body=body)) == ErrorInfo(
        "server_error", "openai.APIError: server_error"
    )
    assert describe_error(openai.APIError(SECRET, REQUEST, body=None)) == ErrorInfo(
        "openai.APIError", "openai.APIError"
    )


def test_successful_status_is_not_error_type():
    response = httpx2.Response(200, request=REQUEST, text=SECRET)
    error = openai.APIResponseValidationError(response, body=SECRET)
    assert describe_error(error) == ErrorInfo(
        "openai.APIResponseValidationError", "openai.APIResponseValidationError: HTTP 200", 200
    )


REFUSED = ConnectionRefusedError(111, "Connection refused")
CONNECTION: dict[str, tuple[BaseException, str, str]] = {
    "connection refused": (
        raised(openai.APIConnectionError(request=REQUEST), httpx2.ConnectError("refused")),
        "openai.APIConnectionError",
        "openai.APIConnectionError: Connection error. (httpx2.ConnectError: refused)",
    ),
    "timeout": (
        raised(openai.APITimeoutError(request=REQUEST), httpx2.ReadTimeout("timed out")),
        "openai.APITimeoutError",
        "openai.APITimeoutError: Request timed out. (httpx2.ReadTimeout: timed out)",
    ),
    "timeout without message": (
        raised(openai.APITimeoutError(request=REQUEST), httpx2.ReadTimeout("")),
        "openai.APITimeoutError",
        "openai.APITimeoutError: Request timed out. (httpx2.ReadTimeout)",
    ),
    "connection reset": (
        raised(
            openai.APIConnectionError(request=REQUEST),
            raised(httpx2.ReadError(SECRET), ConnectionResetError(104, "Connection reset by peer")),
        ),
        "openai.APIConnectionError",
        "openai.APIConnectionError: Connection error. (ConnectionResetError: Connection reset by peer)",
    ),
    "connection error with unknown message": (
        raised(openai.APIConnectionError(request=REQUEST), httpx2.RemoteProtocolError(SECRET)),
        "openai.APIConnectionError",
        "openai.APIConnectionError: Connection error. (httpx2.RemoteProtocolError)",
    ),
    "no cause": (
        openai.APIConnectionError(request=REQUEST),
        "openai.APIConnectionError",
        "openai.APIConnectionError: Connection error.",
    ),
    "exception of httpx": (
        httpx.ConnectError("All connection attempts failed"),
        "httpx.ConnectError",
        "httpx.ConnectError: All connection attempts failed",
    ),
    "exception of httpx with content": (
        httpx.ReadError(SECRET),
        "httpx.ReadError",
        "httpx.ReadError",
    ),
    "exception of requests with URL": (
        raised(requests.ConnectionError(f"Max retries exceeded with url: /?key={SECRET}"), REFUSED),
        "requests.exceptions.ConnectionError",
        "requests.exceptions.ConnectionError (ConnectionRefusedError: Connection refused)",
    ),
    "OSError with errno": (
        REFUSED,
        "ConnectionRefusedError",
        "ConnectionRefusedError: Connection refused",
    ),
    "unknown host": (
        socket.gaierror(-2, "Name or service not known"),
        "socket.gaierror",
        "socket.gaierror: Name or service not known",
    ),
    "invalid certificate": (
        ssl.SSLCertVerificationError(1, "certificate verify failed"),
        "ssl.SSLCertVerificationError",
        "ssl.SSLCertVerificationError: certificate verify failed",
    ),
    "OSError with file name": (
        FileNotFoundError(2, "No such file or directory", f"/home/jane/{SECRET}"),
        "FileNotFoundError",
        "FileNotFoundError: No such file or directory",
    ),
    "OSError with message only": (OSError(SECRET), "OSError", "OSError"),
    "TimeoutError without message": (TimeoutError(), "TimeoutError", "TimeoutError"),
    "other exception with cause": (
        raised(ValueError(SECRET), REFUSED),
        "ValueError",
        "ValueError (ConnectionRefusedError: Connection refused)",
    ),
}


@pytest.mark.parametrize(
    ("error", "error_type", "description"), CONNECTION.values(), ids=CONNECTION
)
def test_connection_error_description_names_cause(error, error_type, description):
    assert describe_error(error) == ErrorInfo(error_type, description)


def validation_error() -> BaseException:
    class Person(pydantic.BaseModel):
        age: int

    with pytest.raises(pydantic.ValidationError, match=SECRET) as raised_error:
        Person.model_validate({"age": SECRET})
    return raised_error.value


def decode_error() -> BaseException:
    with pytest.raises(json.JSONDecodeError) as raised_error:
        json.loads(SECRET)
    return raised_error.value


# Older versions of openai lack this class.
LIBRARY_ERRORS = [
    (error, "openai.LengthFinishReasonError")
    for error in [getattr(openai, "LengthFinishReasonError", None)]
    if error is not None
]


class ApplicationError(Exception):
    """An exception class of the application."""


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (ValueError(SECRET), "ValueError"),
        (KeyError(SECRET), "KeyError"),
        (ApplicationError(SECRET), f"{__name__}.ApplicationError"),
        (validation_error(), "pydantic_core.ValidationError"),
        (decode_error(), "json.decoder.JSONDecodeError"),
        *LIBRARY_ERRORS,
        (KeyboardInterrupt(SECRET), "KeyboardInterrupt"),
        (asyncio.CancelledError(SECRET), "asyncio.exceptions.CancelledError"),
        (GeneratorExit(), "GeneratorExit"),
        (SystemExit(SECRET), "SystemExit"),
        (ExceptionGroup(SECRET, [ValueError(SECRET)]), "ExceptionGroup"),
    ],
)
def test_other_error_is_described_by_class_only(error, name):
    if isinstance(error, type):
        completion = openai.types.chat.ChatCompletion.model_construct(usage=None, id=SECRET)
        error = error(completion=completion)
    assert describe_error(error) == ErrorInfo(name, name)


def test_circular_causes_are_followed_once():
    first, second = ValueError(SECRET), KeyError(SECRET)
    first.__cause__, second.__cause__ = second, first
    assert describe_error(first) == ErrorInfo("ValueError", "ValueError")
    second.__cause__ = None
    second.__context__ = first
    assert describe_error(first) == ErrorInfo("ValueError", "ValueError")
    alone = OSError(5, "Input/output error")
    alone.__cause__ = alone
    assert describe_error(alone) == ErrorInfo("OSError", "OSError: Input/output error")


def test_suppressed_context_is_not_a_cause():
    error = ValueError(SECRET)
    error.__context__ = REFUSED
    assert "refused" in describe_error(error).description
    error.__suppress_context__ = True
    assert describe_error(error) == ErrorInfo("ValueError", "ValueError")


def test_long_description_is_truncated():
    described = describe_error(httpx2.ConnectError("x" * 1000))
    assert len(described.description) == 200


@pytest.mark.parametrize(
    ("status", "expected"),
    [(True, None), ("404", None), (404.0, None), (None, None), (404, 404)],
)
def test_status_is_integer_or_none(status, expected):
    error = ApplicationError(SECRET)
    error.status_code = status  # type: ignore[attr-defined]
    assert describe_error(error).status_code == expected


def test_exception_with_raising_properties_is_described_by_class():
    class HostileError(Exception):
        @property
        def status_code(self) -> int:
            raise RuntimeError("broken property")

        body = status_code

    assert describe_error(HostileError()).type.endswith("HostileError")


def test_describe_status_uses_error_type_of_body_or_status():
    body = {"error": {"code": 400, "type": "exceed_context_size_error", "message": "SECRET"}}
    error = describe_status(400, body)
    assert (error.type, error.status_code) == ("exceed_context_size_error", 400)
    assert error.description == "HTTP 400 exceed_context_size_error"
    assert describe_status(502, None).type == "502"


@given(body=json_values())
def test_describe_status_accepts_any_body(body):
    assert describe_status(500, body).status_code == 500


@pytest.mark.parametrize("body", NOT_ERRORS, ids=str)
def test_body_without_error_has_no_reported_error(body: Any) -> None:
    assert find_reported_error(body) is None


@given(json_values())
def test_find_reported_error_accepts_any_json(body: Any) -> None:
    assert find_reported_error(body) is None or find_reported_error(body).type


def test_reported_error_of_list_is_found() -> None:
    found = find_reported_error([{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED"}}])
    assert found is not None
    assert found.type == "429"
