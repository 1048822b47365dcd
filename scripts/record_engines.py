"""Run examples/any_engine.py with llama.cpp and vLLM, and write its output into docs/instrument/engines.md.

Run it in the repository: `.venv/bin/python -m scripts.record_engines`. It needs vLLM, which
scripts/install-vllm installs into an environment of its own.
"""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.any_engine import PROGRAM, run_any_engine
from tests.support.llama_server import MODEL_ALIAS, embedded_server
from tests.support.vllm_server import vllm_server

PAGE = Path(__file__).parents[1] / "docs/instrument/engines.md"
BEGIN = "<!-- run: written by scripts/record_engines.py -->\n"
END = "<!-- end of run -->\n"
# The page shows the usual ports.
URLS = ("http://127.0.0.1:8080/v1", "http://127.0.0.1:8000/v1")


def record() -> str:
    """Run the program and return what a terminal shows."""
    with (
        embedded_server(alias=MODEL_ALIAS) as llama,
        vllm_server("--enable-per-request-metrics") as vllm,
    ):
        done = run_any_engine(llama.url, vllm.url)
        if done.returncode != 0:
            raise SystemExit(done.stdout + done.stderr)
        # Before the table there may be lines of the program's own libraries.
        output = done.stdout + "\nCalls" + done.stderr.partition("\nCalls")[2]
        for real, shown in zip((llama.url, vllm.url), URLS, strict=True):
            output = output.replace(real, shown)
    output = re.sub(r"^Saved to .*\n", "", output, flags=re.MULTILINE)
    lines = (line.rstrip() for line in output.splitlines())
    return "\n".join((f"$ llamatelemetry run -- python {PROGRAM} {' '.join(URLS)}", *lines))


def main() -> None:
    """Update the page."""
    page = PAGE.read_text(encoding="utf-8")
    before, found, rest = page.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise SystemExit(f"{PAGE.name} must contain the lines {BEGIN.strip()} and {END.strip()}")
    text = f"{before}{BEGIN}\n```text\n{record().strip()}\n```\n\n{END}{after}"
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
