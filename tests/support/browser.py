"""Load a page in a real browser without network, and read the resulting document."""

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

# A script that runs in the page when it is ready, with the page's own nonce. `pointer` sends mouse
# events to an element, at positions given as fractions of its size.
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


def rendered_document(
    folder: Path, page: str, *, height: int | None = None, budget_ms: int = 20_000
) -> str:
    """Return the document after its scripts have run. A console error fails the test."""
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
            # A request to a network becomes a console error.
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


def run_in_page(folder: Path, page: str, use: str, *, height: int) -> dict[str, Any]:
    """Run a script in the page and return the values that it stores in `said`."""
    nonce = re.findall(r'nonce="([^"]+)"', page)[0]
    script = f'<script nonce="{nonce}">{USE % use}</script></body>'
    document = rendered_document(folder, page.replace("</body>", script), height=height)
    found = re.search(r'<pre id="said">(.*?)</pre>', document, re.DOTALL)
    assert found is not None, document[-2000:]
    return json.loads(html.unescape(found[1]))
