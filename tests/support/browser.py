"""A page in a real browser, without a network: what it has drawn, and what a script finds in it."""

from __future__ import annotations

import html
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.probes import browser

MARKS = [pytest.mark.slow, pytest.mark.needs("chromium")]

# Runs in the page, by its own nonce, once it is ready.
# `pointer` does to a drawing what a mouse does, at places that are shares of its size.
USE = """
const pointer = (target, type, [x, y]) => {
  const box = target.getBoundingClientRect();
  const [clientX, clientY] = [box.left + x * box.width, box.top + y * box.height];
  const kind = type === "dblclick" ? MouseEvent : PointerEvent;
  target.dispatchEvent(new kind(type, { clientX, clientY, pointerId: 1, bubbles: true, cancelable: true }));
};
const settled = () => new Promise((done) => setTimeout(done, 100));
(async () => {
  while (document.documentElement.dataset.ready !== "true") await settled();
  const said = {};
  %s
  const out = document.createElement("pre");
  out.id = "said";
  out.textContent = JSON.stringify(said);
  document.body.append(out);
})();
"""


def drawn(folder: Path, page: str, *, height: int | None = None, budget_ms: int = 20_000) -> str:
    """The document as the page has made it of itself; an error in its console fails the test."""
    path = folder / "page.html"
    path.write_text(page, encoding="utf-8")
    done = subprocess.run(
        [
            browser(),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
            *(() if height is None else (f"--window-size=1400,{height}",)),
            f"--user-data-dir={folder / 'profile'}",
            # Whatever it wanted from a network would be an error in its console.
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--virtual-time-budget={budget_ms}",
            "--dump-dom",
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, f"Chromium ended with exit status {done.returncode}"
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    return done.stdout


def said_in(folder: Path, page: str, use: str, *, height: int) -> dict[str, Any]:
    """What a script that is put into the page notes in its `said`."""
    nonce = re.findall(r'nonce="([^"]+)"', page)[0]
    script = f'<script nonce="{nonce}">{USE % use}</script></body>'
    document = drawn(folder, page.replace("</body>", script), height=height)
    found = re.search(r'<pre id="said">(.*?)</pre>', document, re.DOTALL)
    assert found is not None, document[-2000:]
    return json.loads(html.unescape(found[1]))
