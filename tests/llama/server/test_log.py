"""The bounded log of a server."""

from __future__ import annotations

import tracemalloc

from llamatelemetry.llama.server.log import ServerLog


def test_log_limits_memory_of_line_without_end():
    log = ServerLog()
    tracemalloc.start()
    try:
        for _ in range(200):
            log.feed(b"x" * 65536)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 1_000_000
    log.close()
    assert log.lines() == ["x" * 8192]


def test_log_truncates_long_lines():
    log = ServerLog()
    log.feed(b"x" * 60000 + b"\nnext")
    log.close()
    assert list(map(len, log.lines())) == [8192, 4]


def test_log_joins_line_fed_in_parts():
    log = ServerLog()
    for part in ("one\ntw", "o\n", "ü"):
        log.feed(part.encode()[:-1])
        log.feed(part.encode()[-1:])
    log.close()
    assert log.lines() == ["one", "two", "ü"]
