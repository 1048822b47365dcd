"""Run the code blocks of the documentation that need packages of another environment.

    .venv/bin/python -m scripts.framework_examples              all of them
    .venv/bin/python -m scripts.framework_examples LiteLLM      those below one heading

The blocks call a real llama.cpp server. Each environment is created once, in `build/frameworks`.
The versions are exact, because a new release may need another program.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from markdown_it import MarkdownIt

from scripts.test_frameworks import DISTRIBUTIONS, ROOT, create_environment
from tests.support.llama_server import MODEL_ALIAS, embedded_server
from tests.support.otlp_receiver import http_receiver

REQUIREMENTS = {
    "examples": (
        *("openai==3.57.0", "langchain==1.5.0", "langchain-openai==1.7.4"),
        *("openai-agents==0.24.0", "pydantic-ai-slim[openai]==2.68.0", "litellm==1.110.2"),
        *("opentelemetry-instrumentation-genai-langchain==1.3b0", "logfire==5.4.0"),
        "opentelemetry-instrumentation-genai-openai-agents==1.3b0",
    ),
    "examples-llama-index": (
        *("openai==2.54.0", "llama-index-llms-openai-like==0.8.1"),
        "opentelemetry-instrumentation-genai-llama-index==1.3b0",
    ),
    "examples-azure": ("openai==3.57.0", "azure-monitor-opentelemetry==1.8.11"),
}
# Environments with the plugins alone, because `llamatelemetry` needs a newer SDK.
PLUGINS_ONLY = {"examples-azure"}
# Environments by the headings of the blocks.
EXAMPLES = {
    "docs/instrument/frameworks.md": {
        "LangChain and LangGraph": "examples",
        "LlamaIndex": "examples-llama-index",
        "OpenAI Agents": "examples",
        "pydantic-ai": "examples",
        "LiteLLM": "examples",
    },
    "docs/instrument/existing-opentelemetry.md": {
        "Logfire": "examples",
        "Azure Monitor": "examples-azure",
    },
}


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Yield the headings of a page with each block of Python below them."""
    heading = ""
    tokens = MarkdownIt().parse(page.read_text(encoding="utf-8"))
    for token, following in itertools.pairwise(tokens):
        if token.type == "heading_open":
            heading = following.content
        elif token.type == "fence" and token.info.strip() == "python":
            yield heading, token.content


def main(names: list[str]) -> int:
    """Run the blocks below the headings, or all of them. Return 1 if one fails."""
    failed = False
    with (
        embedded_server(alias=MODEL_ALIAS) as server,
        http_receiver() as azure,
        tempfile.TemporaryDirectory() as folder,
    ):
        settings = {
            "OPENAI_BASE_URL": server.url,
            "OPENAI_API_KEY": "none",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "APPLICATIONINSIGHTS_STATSBEAT_DISABLED_ALL": "true",
            "APPLICATIONINSIGHTS_CONNECTION_STRING": "InstrumentationKey="
            f"00000000-0000-0000-0000-000000000000;IngestionEndpoint={azure.url}/",
        }
        for page, environments in EXAMPLES.items():
            for heading, code in blocks(ROOT / page):
                if heading not in environments or (names and heading not in names):
                    continue
                name = environments[heading]
                distributions = DISTRIBUTIONS[name in PLUGINS_ONLY :]
                python = create_environment(name, REQUIREMENTS[name], distributions)
                done = subprocess.run(
                    [python, "-c", code], cwd=folder, env=os.environ | settings, check=False
                )
                failed |= done.returncode != 0
                print(f"{heading}: exit status {done.returncode}", flush=True)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
