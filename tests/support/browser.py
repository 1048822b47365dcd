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
  parent.postMessage(out.textContent, "*");
})();
"""
# A page in a frame, because the window of a browser cannot be as narrow as a telephone.
_FRAME = """<!doctype html><body style="margin: 0"><script>
addEventListener("message", ({ data }) => {
  const out = document.createElement("pre");
  out.id = "said";
  out.textContent = data;
  document.body.append(out);
});
</script><iframe src="page.html" style="border: 0; width: %dpx; height: 900px"></iframe></body>"""


def rendered_document(
    folder: Path,
    page: str,
    *,
    height: int | None = None,
    budget_ms: int = 20_000,
    dark: bool = False,
    address: str = "",
    frame_width: int | None = None,
) -> str:
    """Return the document after its scripts have run. A console error fails the test.

    `address` follows the URL of the page, such as `#id`. With a `frame_width`, the page is in a
    frame of so many pixels, and the document is the one around it.
    """
    path = folder / "page.html"
    path.write_text(page, encoding="utf-8")
    if frame_width is not None:
        path = folder / "frame.html"
        path.write_text(_FRAME % frame_width, encoding="utf-8")
    done = subprocess.run(
        [
            browser(),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
            *(() if height is None else (f"--window-size=1400,{height}",)),
            *(("--blink-settings=preferredColorScheme=0",) if dark else ()),
            f"--user-data-dir={folder / 'profile'}",
            # A request to a network becomes a console error.
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--virtual-time-budget={budget_ms}",
            "--dump-dom",
            path.as_uri() + address,
        ],
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, f"Chromium ended with exit status {done.returncode}"
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    return done.stdout


def run_in_page(folder: Path, page: str, use: str, **how: Any) -> dict[str, Any]:
    """Run a script in the page and return the values that it stores in `said`.

    `how` is given to `rendered_document`.
    """
    nonce = re.findall(r'nonce="([^"]+)"', page)[0]
    script = f'<script nonce="{nonce}">{USE % use}</script></body>'
    document = rendered_document(folder, page.replace("</body>", script), **how)
    found = re.search(r'<pre id="said">(.*?)</pre>', document, re.DOTALL)
    assert found is not None, document[-2000:]
    return json.loads(html.unescape(found[1]))
