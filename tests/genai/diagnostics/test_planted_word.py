"""A word of a prompt, and every hash that can be computed without the key, is nowhere in the store."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import sys
import textwrap
import zlib
from base64 import b64encode, urlsafe_b64encode
from pathlib import Path
from typing import Any

import pytest

from tests.support.run_commands import run
from tests.support.scripted_stream import Script, scripted_server

WORD = "zymurgy"
MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": WORD},
    {"role": "user", "content": f"What is {WORD}?"},
    {"role": WORD, "content": "yes", "name": WORD},
]
TOOLS = [{"type": "function", "function": {"name": WORD, "description": WORD}}]
PROGRAM = f"""
    import openai, os
    client = openai.OpenAI(api_key="none")
    messages = {MESSAGES!r}
    for _ in range(2):
        client.chat.completions.create(model="m", messages=messages, tools={TOOLS!r})
        messages[0]["content"] += "{WORD}"
    print(os.environ["_LLAMATELEMETRY_RUN_KEY"])
"""


def plain_hashes(text: str) -> set[str]:
    """Return the ends of every hash of a text that needs no key, in hexadecimal and base64."""
    found: set[str] = set()
    for data in {text.encode(), text.encode("utf-16-le"), text.encode() + b"\n"}:
        digests: list[bytes] = []
        for name in hashlib.algorithms_available:
            hashed = hashlib.new(name, data)
            digests.append(hashed.digest(8) if name.startswith("shake") else hashed.digest())
        for size in (6, 8, 16):
            digests.append(hashlib.blake2b(data, digest_size=size).digest())
            digests.append(hashlib.blake2s(data, digest_size=size).digest())
        for digest in digests:
            for part in (digest[:6], digest[-6:]):
                found |= {part.hex(), urlsafe_b64encode(part).decode(), b64encode(part).decode()}
        found |= {f"{zlib.crc32(data):08x}", f"{zlib.adler32(data):08x}"}
    return found


def texts() -> set[str]:
    """Return the sections of the prompts, in the forms that a hash may have been made of."""
    values: list[Any] = [WORD, WORD * 2, "yes", *MESSAGES, *TOOLS]
    found = {value["content"] for value in MESSAGES}
    for value in values:
        found.add(value if isinstance(value, str) else json.dumps(value))
        found.add(json.dumps(value, separators=(",", ":")))
        found.add(json.dumps(value, sort_keys=True))
    roles = ("system", "user", "other", "tools", WORD)
    return found | {
        f"{role}{gap}{text}" for role in roles for gap in ("\0", ":", " ") for text in found
    }


@pytest.mark.parametrize("redact", ["false", "true"])
def test_store_of_a_run_has_neither_the_word_nor_a_plain_hash_nor_the_key(
    tmp_path: Path, redact: str
):
    with scripted_server(Script()) as origin:
        done = run(
            *("--", sys.executable, "-c", textwrap.dedent(PROGRAM)),
            cwd=tmp_path,
            OPENAI_BASE_URL=f"{origin}/v1",
            LLAMATELEMETRY_REDACT_PROMPTS=redact,
        )
    assert done.returncode == 0, done.stderr
    key = done.stdout.strip()
    assert len(bytes.fromhex(key)) == 32
    stored = _everything_in(tmp_path)
    assert "llamatelemetry.prompt.sections" in stored
    assert "llamatelemetry.prompt.reference" in stored
    assert WORD not in stored
    assert key not in stored
    hashes = set().union(*map(plain_hashes, texts()))
    assert [each for each in hashes if each in stored] == []


def test_hashes_of_two_runs_differ(tmp_path: Path):
    sections: list[str] = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        with scripted_server(Script()) as origin:
            run(
                *("--", sys.executable, "-c", textwrap.dedent(PROGRAM)),
                cwd=folder,
                OPENAI_BASE_URL=f"{origin}/v1",
            )
        sections.append(_everything_in(folder).partition("llamatelemetry.prompt.sections")[2][:80])
    assert sections[0] != sections[1]


def test_workers_of_one_run_have_the_same_hashes(tmp_path: Path):
    worker = textwrap.dedent(PROGRAM)
    program = (
        "import subprocess, sys\n"
        f"for _ in range(2): subprocess.run([sys.executable, '-c', {worker!r}])"
    )
    with scripted_server(Script()) as origin:
        run("--", sys.executable, "-c", program, cwd=tmp_path, OPENAI_BASE_URL=f"{origin}/v1")
    stored = _everything_in(tmp_path)
    # The third message is the same in all four calls of both workers.
    hashes = re.findall(r"other:\d+:([\w-]{8})", stored)
    assert len(hashes) >= 4
    assert len(set(hashes)) == 1


def _everything_in(folder: Path) -> str:
    """Return all values of the database as text, and the bytes of all files that the run wrote."""
    (path,) = (folder / "llamatelemetry-data").glob("run-*.db")
    found: list[str] = []
    with sqlite3.connect(path) as database:
        for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type='table'"):
            found += [str(row) for row in database.execute(f'SELECT * FROM "{table}"')]
    found += [
        each.read_bytes().decode("utf-8", "replace")
        for each in (folder / "llamatelemetry-data").iterdir()
    ]
    return "\n".join(found)
