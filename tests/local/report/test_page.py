"""The HTML report, its live version, and the sources it reads."""

from __future__ import annotations

import base64
import gzip
import html
import http.client
import json
import re
import socket
import struct
import subprocess
import sys
import threading
import urllib.parse
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from llamatelemetry.local.report import (
    LivePage,
    Recording,
    page_beside,
    read_recorded,
    render,
    write_report,
)
from llamatelemetry.local.report.columns import columns
from llamatelemetry.local.store import Store, StoreError
from tests.support.example_records import (
    EVIL,
    call,
    gpu,
    sample_recording,
    span,
    vllm,
)
from tests.support.waiting import wait_for


def data_of(page: str) -> dict[str, Any]:
    packed = re.search(r'<script id="data"[^>]*>([^<]*)</script>', page)
    assert packed is not None
    return json.loads(gzip.decompress(base64.b64decode(packed[1])))


def test_page_contains_all_records_without_markup() -> None:
    page = render(sample_recording())
    assert EVIL not in page
    assert "alert(1)" not in page
    data = data_of(page)
    values, rows = data["values"], data["spans"]
    assert [values[at] for at in rows["name"]][:2] == ["invoke_workflow rag", "chat m"]
    assert rows["role"] == [0, 1, 2, 3, 4, 0, 1]
    assert rows["failed"] == [0, 0, 0, 0, 0, 1, 0]
    assert rows["parent"][1] == f"{1:016x}"
    assert rows["duration"][0] == 50_000
    assert [series["panel"] for series in data["series"]] == ["GPU (%)", "GPU (W)"]
    assert data["series"][0]["values"] == [0.0, 10.0, 20.0, 30.0, 40.0]
    attributes = rows["attributes"][6]
    found = {
        values[attributes[at]]: values[attributes[at + 1]] for at in range(0, len(attributes), 2)
    }
    # Messages recorded as an event are shown with the span.
    assert found["gen_ai.output.messages"][0]["parts"][0]["content"] == "an answer"
    assert [row[:4] for row in data["summary"]["rows"]] == [["chat", "m", 2, 0]]


def test_page_has_strict_content_security_policy() -> None:
    page, other = render(Recording()), render(Recording())
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]*)"', html.unescape(page))
    nonces = set(re.findall(r'nonce="([^"]+)"', page))
    assert len(nonces) == 1
    assert f"script-src 'nonce-{nonces.pop()}'" in policy
    assert "default-src 'none'" in policy
    assert "connect-src 'none'" in policy
    assert set(re.findall(r'nonce="([^"]+)"', other)) != set(re.findall(r'nonce="([^"]+)"', page))
    assert "No span was recorded. Run your program with" in page


def test_columns_store_each_distinct_value_once() -> None:
    found = columns([call(n) for n in range(100)])
    assert found["values"].count("gen_ai.request.model") == 1
    # 1, True and "1" are distinct values.
    mixed = columns([span(1, attributes={"a": 1, "b": True, "c": "1", "d": 1.0})])
    pairs = mixed["spans"]["attributes"][0]
    stored = [mixed["values"][at] for at in pairs[1::2]]
    assert [(type(value), value) for value in stored] == [
        (int, 1),
        (bool, True),
        (str, "1"),
        (float, 1.0),
    ]


def test_columns_truncate_long_texts_above_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("llamatelemetry.local.report.columns.MAX_LONG_CHARS", 2500)
    found = columns([span(n, attributes={"text": f"{n}" * 1000}) for n in (1, 2, 3)])
    lengths = sorted(len(v) for v in found["values"] if isinstance(v, str) and len(v) > 100)
    assert lengths == [401, 1000, 1000]


def test_report_of_database_contains_stored_records(tmp_path: Path) -> None:
    run = sample_recording()
    with Store(tmp_path / "run.db") as store:
        store.write([*run.spans, *run.points, *run.logs])
    from_store = read_recorded(tmp_path / "run.db")
    assert list(from_store.spans) == list(run.spans)
    assert (len(from_store.points), len(from_store.logs)) == (10, 1)
    write_report(from_store, tmp_path / "page.html")
    assert data_of((tmp_path / "page.html").read_text())["spans"] == data_of(render(run))["spans"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "run.db"]


PROGRAM = """
import sys
from opentelemetry import metrics, trace
import llamatelemetry
llamatelemetry.init(service_name="library", exporter="file", export_path=sys.argv[1])
with trace.get_tracer("t").start_as_current_span("outer", attributes={"a": 1}):
    trace.get_tracer("t").start_span("inner").end()
metrics.get_meter("m").create_counter("c").add(3)
llamatelemetry.shutdown()
"""


def test_report_command_reads_files_of_file_exporter(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", PROGRAM, tmp_path / "data"], check=True, timeout=60)
    recorded = read_recorded(tmp_path / "data")
    assert {span.name for span in recorded.spans} == {"outer", "inner"}
    by_name = {span.name: span for span in recorded.spans}
    assert by_name["inner"].parent_span_id == by_name["outer"].span_id
    assert by_name["outer"].attributes["a"] == 1
    assert {(p.name, p.value) for p in recorded.points if p.name == "c"} == {("c", 3)}
    done = subprocess.run(
        [sys.executable, "-m", "llamatelemetry.cli", "report", tmp_path / "data"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "data" / "report.html")


SPAN_LINE = b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"name":"work"}]}]}]}\n'


def test_report_command_rejects_damaged_database(tmp_path: Path) -> None:
    source = tmp_path / "run.db"
    with Store(source) as store:
        store.write(list(sample_recording().spans))
    content = bytearray(source.read_bytes())
    content[4096:] = b"x" * (len(content) - 4096)
    source.write_bytes(content)
    with pytest.raises(StoreError, match=r"run\.db is damaged"):
        read_recorded(source)


def test_report_replaces_characters_that_cannot_be_encoded(tmp_path: Path) -> None:
    source = tmp_path / "source.jsonl"
    source.write_bytes(SPAN_LINE.replace(b"work", rb"half \ud83d of a pair"))
    write_report(read_recorded(source), tmp_path / "report.html")
    assert "half ? of a pair" in data_of((tmp_path / "report.html").read_text())["values"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"hello\n", "is not a file of OTLP JSON lines"),
        (b"[1]\n", "is not a file of OTLP JSON lines"),
        (b'{"resourceMetrics":[{"scopeMetrics":3}]}\n', "is not a file of OTLP JSON lines"),
        (SPAN_LINE.replace(b'"name":"', b'"kind":1e999,"name":"'), "is not a file of OTLP JSON"),
        (b"[" * 100_000 + b"\n", "is not a file of OTLP JSON lines"),
        (b"\xff\xfe\n", "source.jsonl is not a file of OTLP JSON lines"),
        (b"SQLite format 3\0garbage", "source.jsonl is not an SQLite file"),
    ],
)
def test_report_command_rejects_other_files(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    source = tmp_path / "source.jsonl"
    if content is not None:
        source.write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-m", "llamatelemetry.cli", "report", source],
        capture_output=True,
        text=True,
        timeout=60,
        env={"COLUMNS": "300"},
    )
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("*.html"))


@pytest.mark.parametrize(
    ("source", "page"),
    [("source.jsonl", "source.html"), ("source.html", "source.html.html"), (".", "report.html")],
)
def test_page_is_written_beside_the_recording(tmp_path: Path, source: str, page: str) -> None:
    for name in {"source.jsonl", source} - {"."}:
        (tmp_path / name).write_bytes(SPAN_LINE)
    assert page_beside(tmp_path / source) == tmp_path / page


@pytest.mark.parametrize("source", [".", "source.jsonl"])
def test_report_command_does_not_replace_the_recording(tmp_path: Path, source: str) -> None:
    (tmp_path / "source.jsonl").write_bytes(SPAN_LINE)
    done = subprocess.run(
        [sys.executable, "-m", "llamatelemetry.cli", "report", source, "--output", "source.jsonl"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert done.stderr == "error: source.jsonl is a recording. Give the page another name\n"
    assert (tmp_path / "source.jsonl").read_bytes() == SPAN_LINE


def test_render_names_pip_command_when_jinja2_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(
        ImportError, match=r"needs jinja2. Install it: pip install 'llamatelemetry-core\[report\]'"
    ):
        render(Recording())


class TestLivePage:
    def get(self, url: str, path: str, host: str | None = None) -> tuple[int, str]:
        address = url.removeprefix("http://").partition("/")[0]
        connection = http.client.HTTPConnection(address, timeout=10)
        connection.request("GET", path, headers={} if host is None else {"Host": host})
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        return response.status, text

    def test_page_polls_new_records(self, tmp_path: Path) -> None:
        with Store(tmp_path / "run.db") as store:
            store.write(list(sample_recording().spans)[:2])
            page = LivePage(tmp_path / "run.db")
            try:
                path = "/" + page.url.split("/", 3)[3]
                status, text = self.get(page.url, path)
                assert status == 200
                assert "connect-src 'self'" in html.unescape(text)
                data = data_of(text)
                assert len(data["spans"]["id"]) == 2
                assert data["next"] == "2.0.0"
                store.write([call(20, trace=9), gpu("hw.power", 1, 50.0)])
                status, text = self.get(page.url, f"{path}data?after={data['next']}")
                more = json.loads(text)
                assert more["columns"]["spans"]["id"] == [f"{20:016x}"]
                assert more["next"] == "3.1.0"
                assert more["summary"]["rows"][0][2] == 2  # calls
                _, text = self.get(page.url, f"{path}data?after=3.1.0")
                assert json.loads(text)["columns"]["spans"]["id"] == []
            finally:
                page.stop()

    def test_page_gets_every_span_that_is_written_while_it_reads(self, tmp_path: Path) -> None:
        def write() -> None:
            for number in range(1000):
                store.write([call(number + 1, trace=number + 1)])

        with Store(tmp_path / "run.db") as store:
            page = LivePage(tmp_path / "run.db")
            writer = threading.Thread(target=write)
            writer.start()
            try:
                path = "/" + page.url.split("/", 3)[3]
                data = data_of(self.get(page.url, path)[1])
                found, position, is_last = set(data["spans"]["id"]), data["next"], False
                while not is_last:
                    is_last = not writer.is_alive()
                    more = json.loads(self.get(page.url, f"{path}data?after={position}")[1])
                    found |= set(more["columns"]["spans"]["id"])
                    position = more["next"]
                assert len(found) == 1000
                assert more["summary"]["rows"][0][2] == 1000  # calls
            finally:
                writer.join()
                page.stop()

    def test_spans_of_one_call_that_arrive_at_different_times_stay_one_call(
        self, tmp_path: Path
    ) -> None:
        with Store(tmp_path / "run.db") as store:
            store.write([vllm(9, parent=1), call(7, trace=2)])
            page = LivePage(tmp_path / "run.db")
            try:
                path = "/" + page.url.split("/", 3)[3]
                data = data_of(self.get(page.url, path)[1])
                assert data["spans"]["role"] == [1, 1]
                untimed = {"gen_ai.ttft_ms": None, "gen_ai.tpot_ms": None}
                store.write([call(1, **untimed), call(20, trace=9)])
                more = json.loads(self.get(page.url, f"{path}data?after={data['next']}")[1])
                rows = more["columns"]["spans"]
                # It replaces the span of the engine, which was shown as a call of its own before.
                assert rows["id"] == [f"{number:016x}" for number in (1, 20, 9)]
                assert rows["role"] == [1, 1, 8]
                assert rows["call"][0][2:7] == [10, None, 5, 30, 3]
                assert [row[2] for row in more["summary"]["rows"]] == [3]
            finally:
                page.stop()

    @pytest.mark.parametrize("is_span_first", [True, False])
    def test_page_gets_content_that_arrives_at_another_time_than_its_span(
        self, tmp_path: Path, is_span_first: bool
    ) -> None:
        whole = sample_recording()
        records = [[whole.spans[-1]], list(whole.logs)]
        with Store(tmp_path / "run.db") as store:
            page = LivePage(tmp_path / "run.db")
            try:
                path = "/" + page.url.split("/", 3)[3]
                position = data_of(self.get(page.url, path)[1])["next"]
                for each in records if is_span_first else reversed(records):
                    store.write(each)
                    more = json.loads(self.get(page.url, f"{path}data?after={position}")[1])
                    position = more["next"]
                found = more["columns"]
                assert found["spans"]["id"] == [whole.spans[-1].span_id]
                [pairs] = found["spans"]["attributes"]
                assert "gen_ai.output.messages" in [found["values"][at] for at in pairs[::2]]
                assert found["spans"]["role"] == [1]
            finally:
                page.stop()

    def test_closed_connection_prints_nothing(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        with Store(tmp_path / "run.db") as store:
            store.write([span(number, status_message=f"{number}" * 2000) for number in range(2000)])
            page = LivePage(tmp_path / "run.db")
            try:
                host, port = page.url.split("/")[2].split(":")
                for _ in range(5):
                    with socket.create_connection((host, int(port))) as connection:
                        # An abortive close: the response meets a reset connection.
                        linger = struct.pack("ii", 1, 0)
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                        path = page.url.split("/", 3)[3]
                        request = f"GET /{path} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n"
                        connection.sendall(request.encode())
                path = "/" + page.url.split("/", 3)[3]
                assert self.get(page.url, path)[0] == 200
            finally:
                page.stop()
        assert capfd.readouterr().err == ""

    def test_page_is_served_while_many_connections_are_idle(self, tmp_path: Path) -> None:
        with Store(tmp_path / "run.db") as store, ExitStack() as stack:
            store.write([span(1)])
            page = LivePage(tmp_path / "run.db")
            try:
                before = threading.active_count()
                host, port = page.url.split("/")[2].split(":")
                for number in range(100):
                    idle = stack.enter_context(socket.create_connection((host, int(port))))
                    with suppress(ConnectionError):
                        idle.sendall(b"GET / HTTP/1.1\r\n" if number % 2 else b"")
                assert self.get(page.url, "/" + page.url.split("/", 3)[3])[0] == 200
                wait_for(lambda: threading.active_count() < before + 40)
            finally:
                page.stop()

    def test_page_requires_secret_path_and_loopback_host(self, tmp_path: Path) -> None:
        with Store(tmp_path / "run.db") as store:
            store.write([span(1)])
            page = LivePage(tmp_path / "run.db")
            try:
                path = "/" + page.url.split("/", 3)[3]
                assert len(path) > 30
                assert self.get(page.url, "/")[0] == 404
                assert self.get(page.url, "/data?after=0.0.0")[0] == 404
                assert self.get(page.url, path, host="evil.example")[0] == 403
                assert self.get(page.url, f"{path}data")[0] == 400
                for after in ("x", "-1.0.0", "1.1", "0.0.99999999999999999999", "٣.0.0"):
                    query = urllib.parse.urlencode({"after": after})
                    assert self.get(page.url, f"{path}data?{query}")[0] == 400
                assert self.get(page.url, f"{path}../../etc/passwd")[0] == 404
                assert self.get(page.url, path, host="[")[0] == 403
                assert self.get(page.url, path)[0] == 200
            finally:
                page.stop()
