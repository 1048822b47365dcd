"""The names that docs/instrument/migrate.md ascribes to llamatelemetry are those that it exports."""

from __future__ import annotations

import re

import pytest

from scripts.migration_tables import OWN, PAGE, record
from tests.support.llama_server import LlamaServer

TABLE = re.compile(r"<!-- \S+: written by .*?-->\n(.*?)<!-- end of", re.DOTALL)


def names_on_page() -> set[str]:
    """Return the names of llamatelemetry in the tables of names, and in the lists below them."""
    found: set[str] = set()
    for table in TABLE.findall(PAGE.read_text(encoding="utf-8"))[1:]:
        for line in table.splitlines():
            own = line.rsplit("|", 2)[1] if line.startswith("|") else line
            found |= set(re.findall(r"`([^`]+)`", own))
    return found


def test_page_has_names():
    assert {"gen_ai.provider.name", "gen_ai.client.token.usage"} <= names_on_page()


@pytest.mark.needs("xllamacpp")
def test_llamatelemetry_exports_the_names_on_the_page(llama_server: LlamaServer):
    recorded = record(OWN, llama_server, content=True)
    assert names_on_page() <= {name.text for name in recorded.names}
