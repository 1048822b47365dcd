"""Run a script in the report, with functions for its lists and charts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llamatelemetry.local.report import Recording, render
from tests.support import browser

HELPERS = """
  const press = (id, key) =>
    $(id).dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
  const texts = (id) =>
    [...$(id).querySelectorAll(".row")].map((row) => row.innerText.replace(/\\s+/g, " "));
  const axis = (id) => [...$(id).querySelectorAll("text")].map((text) => text.textContent);
  const textsOf = (box, what) => [...box.querySelectorAll(what)].map((each) => each.textContent);
  const shown = (id) => $(id).offsetParent !== null;
  %s
"""


def live_page(recorded: Recording) -> str:
    """Return the live page of a recording, which shows the times as they were measured."""
    page = render(recorded, live=True, position="0.0.0")
    return page.replace("if (LIVE) poll", "if (false) poll")


def in_browser(tmp_path: Path, page: str, script: str, **how: Any) -> dict[str, Any]:
    return browser.run_in_page(tmp_path, page, HELPERS % script, **{"height": 1600, **how})
