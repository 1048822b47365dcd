"""Sessions of the OTLP exporters over HTTP."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest
import requests
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

from llamatelemetry.otel._sdk_private import http_session_of
from tests.support.otlp_receiver import http_receiver


@pytest.mark.parametrize("kind", [OTLPSpanExporter, OTLPMetricExporter, OTLPLogExporter])
def test_session_of_exporter_is_found(kind):
    with requests.Session() as session:
        assert http_session_of(kind(session=session)) is session
    assert http_session_of(object()) is None


# The parent has an open connection when it forks.
FORKS = """
    import os
    import llamatelemetry
    from opentelemetry import trace

    llamatelemetry.init("forks")
    tracer = trace.get_tracer("test")

    def work(times):
        for _ in range(times):
            tracer.start_span("work").end()
            assert llamatelemetry.flush(30)

    work(1)
    children = [pid for _ in range(4) if (pid := os.fork() or work(10) or os._exit(0))]
    work(10)
    for child in children:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    work(1)
"""
DECLARATIVE = """
    file_format: "1.0"
    tracer_provider:
      processors:
        - batch:
            exporter:
              otlp_http:
                endpoint: {url}/v1/traces
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("declarative", [False, True])
def test_forked_children_open_their_own_connections(declarative, tmp_path):
    with http_receiver(keep_alive=True) as received:
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": received.url}
        if declarative:
            pytest.importorskip("opentelemetry.configuration")
            file = tmp_path / "otel.yaml"
            file.write_text(textwrap.dedent(DECLARATIVE.format(url=received.url)))
            variables = {"OTEL_CONFIG_FILE": str(file)}
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(FORKS)],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert received.malformed == []
        assert received.spans() == ["work"] * (1 + 5 * 10 + 1)


class Adapter(requests.adapters.HTTPAdapter):
    def __init__(self, setting: str) -> None:
        self.setting = setting
        super().__init__(pool_maxsize=3)


class NotCopyable(Adapter):
    def init_poolmanager(self, *args, **kwargs) -> None:
        assert self.setting  # a copy has no settings yet
        super().init_poolmanager(*args, **kwargs)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kind", ["Adapter", "NotCopyable"])
def test_adapters_of_application_keep_their_settings_in_child(kind):
    program = f"""
        import os, requests
        from llamatelemetry.otel.export.http_sessions import follow_forks
        from tests.otel.export.test_http_sessions import {kind}
        from tests.support.otlp_receiver import http_receiver

        session = requests.Session()
        follow_forks(session)
        session.mount("http://127.0.0.1", {kind}("own"))
        with http_receiver(keep_alive=True) as received:
            session.post(received.url, data=b"")
            if not os.fork():
                adapter = session.get_adapter(received.url)
                assert (type(adapter), adapter.setting) == ({kind}, "own")
                assert len(adapter.poolmanager.pools) == 0
                assert session.post(received.url, data=b"").status_code == 200
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
