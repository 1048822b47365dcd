"""The notebook of `examples/`, executed by a real kernel."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.support.example_runs import EXAMPLES, settings
from tests.support.llama_server import MODEL_ALIAS, LlamaServer

NOTEBOOK = EXAMPLES / "notebook.ipynb"


@pytest.mark.slow
def test_notebook_shows_its_calls_as_table_and_as_graph(
    llama_server: LlamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbclient = pytest.importorskip("nbclient", reason="needs: pip install --group examples")
    import nbformat

    for name, value in settings(llama_server).items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    saved = outputs(notebook)
    nbclient.NotebookClient(notebook, timeout=90, kernel_name="python3").execute()
    answer, summary, graph, stopped = shown = outputs(notebook)
    assert answer.strip()
    assert "<table" in html(notebook)
    [row] = [line for line in summary.splitlines() if MODEL_ALIAS in line]
    operation, _, calls, errors, input_tokens, output_tokens = row.split()[:6]
    assert (operation, calls, errors) == ("chat", "2", "0")
    assert int(input_tokens) > int(output_tokens) > 0
    assert labels(graph) == {
        *("pipeline guide", "stage name", "stage describe", "service notebook"),
        *(f"model {MODEL_ALIAS}", f"server {llama_server.origin.removeprefix('http://')}"),
    }
    assert stopped == "True"
    # The file has the output of such a run.
    assert len(saved) == len(shown)
    assert {name for name in labels(graph) if "server" not in name} < labels(saved[2])


def outputs(notebook: Any) -> list[str]:
    found = [each for cell in notebook.cells for each in cell.get("outputs", ())]
    return [each["text"] if "text" in each else each["data"]["text/plain"] for each in found]


def html(notebook: Any) -> str:
    found = [each for cell in notebook.cells for each in cell.get("outputs", ())]
    return "".join(each["data"].get("text/html", "") for each in found if "data" in each)


def labels(mermaid: str) -> set[str]:
    return set(re.findall(r'^ +n\d+[([]+"([^"]+)"', mermaid, re.MULTILINE))
