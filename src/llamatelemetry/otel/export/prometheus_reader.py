"""The exporter `prometheus`: OpenTelemetry's metric reader with an HTTP server per process.

OpenTelemetry's own entry point for the exporter raises if the port is in use, so that the second
worker of a server gets no telemetry at all. It also registers with the registry that applications
use for their own `/metrics`. This module has a registry of its own.
"""

from __future__ import annotations

import errno
import logging
import os
import weakref
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import urlsplit

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.environment_variables import (
    OTEL_EXPORTER_PROMETHEUS_HOST,
    OTEL_EXPORTER_PROMETHEUS_PORT,
)
from prometheus_client import CollectorRegistry, start_http_server

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.simple_server import WSGIServer
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

_logger = logging.getLogger("llamatelemetry.otel")

_HOST: Final = "localhost"
_PORT: Final = 9464
_REJECTED: Final = (
    b"The host must be localhost or a loopback address. To serve other names, set "
    b"OTEL_EXPORTER_PROMETHEUS_HOST to the address of a network interface.\n"
)
PORTS: Final = 16
"""Number of ports that are tried, from the configured one upwards."""


class PrometheusReader(PrometheusMetricReader):
    """Serves the metrics of this process at `/metrics`, also after a fork.

    The host and the first port are those of `OTEL_EXPORTER_PROMETHEUS_HOST` (localhost) and
    `OTEL_EXPORTER_PROMETHEUS_PORT` (9464; 0 is any free port). If the port is in use, the next
    free one of `PORTS` is taken, so that each worker of a server has its own. If none is free, the
    process serves no metrics. Both are logged; neither raises.

    A server on a loopback address rejects requests for another `Host`.
    """

    def __init__(self) -> None:
        # Read once: a forked child would find a value that the set-up has replaced.
        self._host = os.environ.get(OTEL_EXPORTER_PROMETHEUS_HOST) or _HOST
        self._first_port = int(os.environ.get(OTEL_EXPORTER_PROMETHEUS_PORT) or _PORT)
        self._served = CollectorRegistry()
        super().__init__(registry=self._served)
        self._server: WSGIServer | None = None
        self._serve()
        _readers.add(self)

    def force_flush(self, timeout_millis: float = 10_000) -> bool:  # noqa: ARG002
        """Return `True`: only a scrape collects.

        The base class would collect, and the next scrape would return every series twice.
        """
        return True

    def shutdown(self, timeout_millis: float = 30_000, **_: object) -> None:
        """Stop the server."""
        _readers.discard(self)
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        super().shutdown(timeout_millis)  # pyright: ignore[reportUnknownMemberType] - untyped kwargs

    def reinitialize_after_fork(self) -> None:
        """Start a server of this process, in a forked child: the parent's thread is missing."""
        if self._server is not None:
            # Otherwise the port would stay in use after the end of the parent.
            self._server.server_close()
            self._serve()

    def _serve(self) -> None:
        """Start the server on the first port that is free, or log that there is none."""
        host, first = self._host, self._first_port
        self._server, last = None, first + PORTS - 1
        for port in range(first, last + 1):
            try:
                self._server, _ = start_http_server(port, host, self._served)
            except (OSError, OverflowError, RuntimeError) as error:  # RuntimeError: no thread
                is_in_use = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
                if is_in_use and port < last:
                    continue
                _logger.warning(
                    "Cannot serve Prometheus metrics on %s, ports %d to %d (%s). Set %s to a free "
                    "port, and %s to an address of this machine",
                    *(host, first, last, error),
                    *(OTEL_EXPORTER_PROMETHEUS_PORT, OTEL_EXPORTER_PROMETHEUS_HOST),
                )
                return
            break
        if self._server is None:
            return
        if _is_loopback(host):
            self._server.set_app(
                _for_loopback_only(cast("WSGIApplication", self._server.get_app()))
            )
        port = self._server.server_port
        served = (
            f"Serving Prometheus metrics of process {os.getpid()} at http://{host}:{port}/metrics"
        )
        if first in (port, 0):
            _logger.info("%s", served)
        else:
            _logger.warning("Port %d is in use. %s. Scrape it, too", first, served)


def _for_loopback_only(application: WSGIApplication) -> WSGIApplication:
    """Return an application that rejects requests of web pages, which arrive by DNS rebinding.

    A page of another site can reach a loopback port through its own host name, and then read the
    response. A scraper of a server on another address sends the name of its target as `Host`.
    """

    def checked(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        # Browsers always send `Host`, and some health checks do not.
        if _is_loopback(_host_name(environ.get("HTTP_HOST", _HOST))):
            return application(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
        return [_REJECTED]

    return checked


def _host_name(authority: str) -> str:
    try:
        return urlsplit(f"//{authority}").hostname or ""
    except ValueError:  # an incomplete IPv6 address
        return ""


def _is_loopback(host: str) -> bool:
    try:
        return host == _HOST or ip_address(host).is_loopback
    except ValueError:  # another name
        return False


_readers: Final[weakref.WeakSet[PrometheusReader]] = weakref.WeakSet()


def _reinitialize_after_fork() -> None:
    for reader in tuple(_readers):
        reader.reinitialize_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reinitialize_after_fork)
