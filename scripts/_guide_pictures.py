"""Pictures of the report of `llamatelemetry run`, for README.md and the guides.

A headless Chromium renders a part of the page that the command has written. The rest of the page is
hidden by a style.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

_HIDDEN = (
    "header.top, section:not([aria-labelledby={section}]), {also} {{ display: none !important }}"
)
_LAYOUT = (
    "body { padding: 8px 12px; margin: 0 } main, section, h2 { padding: 0; margin: 0 } "
    ".split { display: block } #calls { max-height: 234px }"  # four calls
)


class Picture(NamedTuple):
    """A part of the report page: the title of its section, what else is hidden, and its size."""

    file: str
    section: str
    also_hidden: str
    size: tuple[int, int]


PICTURES = (
    Picture("where-the-time-went.png", "time-title", ".tools, .note", (1000, 436)),
    Picture("trace.png", "traces-title", ".picker, #traces-title", (900, 472)),
)


def take_pictures(report: Path, images: Path) -> None:
    """Render the pictures of a report page into a directory.

    Raises:
        SystemExit: Chromium is not installed.
    """
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("The pictures need Chromium. Install it: apt install chromium")
    page = report.read_text(encoding="utf-8")
    part = report.with_name("part.html")
    for picture in PICTURES:
        hidden = _HIDDEN.format(section=picture.section, also=picture.also_hidden)
        part.write_text(page.replace("</head>", f"<style>{hidden} {_LAYOUT}</style></head>", 1))
        width, height = picture.size
        subprocess.run(
            [
                browser,
                *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
                *("--force-device-scale-factor=1.25", f"--window-size={width},{height}"),
                # Milliseconds of the page's own clock until the picture is taken.
                "--virtual-time-budget=10000",
                f"--screenshot={(images / picture.file).resolve()}",
                part.resolve().as_uri(),
            ],
            check=True,
            capture_output=True,
        )
