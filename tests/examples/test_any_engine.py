"""The program of docs/instrument/engines.md, which calls any engine. tests/engines runs it with vLLM, too."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.any_engine import PROGRAM, ROOT, run_any_engine, table_rows
from tests.support.llama_server import LlamaServer

UNKNOWN = "–"  # noqa: RUF001 - the sign that the table uses


@pytest.mark.slow
def test_every_phase_of_llama_cpp_is_in_the_table(llama_server: LlamaServer) -> None:
    done = run_any_engine(llama_server.url)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = table_rows(done.stderr)
    assert {(operation, row[2]) for (operation, _), row in rows.items()} == {
        ("chat", "6"),
        ("text_completion", "3"),
    }
    assert not any(UNKNOWN in row for row in rows.values())


def test_program_is_short_and_does_not_import_llamatelemetry() -> None:
    source = (ROOT / PROGRAM).read_text(encoding="utf-8")
    assert len(source.splitlines()) < 60
    assert re.findall(r"^(?:from|import) (\w+)", source, re.MULTILINE) == ["sys", "openai"]


def test_page_shows_a_run_in_which_every_phase_is_known() -> None:
    page = Path(ROOT, "docs/instrument/engines.md").read_text(encoding="utf-8")
    rows = table_rows(page.partition("<!-- run:")[2].partition("<!-- end of run")[0])
    models = {model for _, model in rows}
    assert len(models) == 2
    assert not any(UNKNOWN in row for row in rows.values())
