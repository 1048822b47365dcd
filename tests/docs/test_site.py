"""The documentation site: links, the API reference, and every page in a real browser.

The browser opens the files without a server and without network, so these tests also show that the
site works from the file system.
"""

from __future__ import annotations

import importlib
import re
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import pytest

from tests.support.devtools import Tab, open_tab

# On a busy machine, some hundred pages take minutes.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

WIDTHS = (1400, 400)
SCHEMES = ("light", "dark")
# The packages whose names are the public interface. Other modules may change in any release.
PUBLIC_PACKAGES = [
    "llamatelemetry",
    *(
        f"llamatelemetry.{name}"
        for name in (
            *("bench", "distributed", "genai", "gpu", "graphistry", "inference", "llama", "nccl"),
            *("otel", "pipeline", "semconv", "transformers"),
        )
    ),
]
_NOT_TEXT = ("code", "pre", "script", "style", "title")
# Markdown that was not understood, GitHub's alerts, and markup of other formats in docstrings.
_LEFT_OVER = re.compile(
    r".{0,40}(`|\|-{3}|\*\*|\]\(|\[!\w+\]|:\w+:`|:param|::).{0,40}|^ *- \w.{0,40}", re.MULTILINE
)
# Problems of the layout of a page, as it is shown.
LAYOUT = r"""
(async () => {
  const found = [];
  const isDark = matchMedia("(prefers-color-scheme: dark)").matches;
  const follows = () => (document.body.dataset.mdColorScheme === "slate") === isDark;
  for (let tries = 0; tries < 1000 && !follows(); tries++)
    await new Promise((done) => setTimeout(done, 10));
  if (!follows()) found.push("colors do not follow the system");
  await Promise.allSettled(document.getAnimations().map((each) => each.finished));
  const name = (each) => each.outerHTML.slice(0, 80);
  const root = document.documentElement;
  if (root.scrollWidth > root.clientWidth) found.push(`page is ${root.scrollWidth} px wide`);
  const content = document.querySelector(".md-content");
  if (content === null) return ["no content"];
  // What is wider than the page must scroll in a box of its own.
  const scrolls = (each) =>
    each !== content && (["auto", "scroll"].includes(getComputedStyle(each).overflowX)
      || scrolls(each.parentElement));
  const edge = content.getBoundingClientRect().right + 1;
  for (const each of content.querySelectorAll("*"))
    if (each.getBoundingClientRect().right > edge && each.checkVisibility() && !scrolls(each))
      found.push(`beyond the edge: ${name(each)}`);
  for (const cell of content.querySelectorAll("td, th"))
    if (cell.scrollWidth > cell.clientWidth + 1) found.push(`text leaves its cell: ${name(cell)}`);
    else if (cell.innerText.length > 80 && cell.clientWidth < 110)
      found.push(`cell is ${cell.clientWidth} px wide: ${name(cell)}`);
  for (const code of content.querySelectorAll("table code"))
    if (/^[\w.]+$/.test(code.textContent) && code.getClientRects().length > 1)
      found.push(`broken name: ${name(code)}`);
  for (const image of content.querySelectorAll("img"))
    if (!image.alt.trim() || !image.naturalWidth) found.push(`no text or file: ${name(image)}`);
  return found;
})()
"""


class Page(HTMLParser):
    """The anchors of a page, the addresses that it refers to, and its text except code."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.addresses: list[str] = []
        self.text = ""
        self._not_text: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _NOT_TEXT:
            self._not_text.append(tag)
        given = dict(attrs)
        self.anchors |= {given[key] or "" for key in ("id", "name") if key in given}
        self.addresses += [given[key] or "" for key in ("href", "src") if key in given]

    def handle_endtag(self, tag: str) -> None:
        if tag in self._not_text:
            self._not_text.remove(tag)

    def handle_data(self, data: str) -> None:
        if not self._not_text:
            self.text += data


@pytest.fixture(scope="module")
def pages(site: Path) -> list[Path]:
    # A server shows 404.html for any address, so its own addresses are absolute.
    return sorted(path for path in site.rglob("*.html") if path.name != "404.html")


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with open_tab(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


def test_every_link_leads_to_a_file_and_an_anchor(pages: list[Path]) -> None:
    parsed = {path.as_uri(): Page(path) for path in pages}
    broken = []
    for page, content in parsed.items():
        for address in content.addresses:
            target, anchor = urldefrag(urljoin(page, address))
            if urlsplit(target).scheme != "file":
                continue
            is_found = Path(unquote(urlsplit(target).path)).is_file()
            if not is_found or (anchor and unquote(anchor) not in parsed[target].anchors):
                broken.append(f"{page}: {address}")
    assert broken == []


def test_text_has_no_markup(pages: list[Path]) -> None:
    found = [
        f"{path.name}: {match.group()}"
        for path in pages
        for match in _LEFT_OVER.finditer(Page(path).text)
    ]
    assert found == []


def test_api_reference_has_every_public_name(site: Path) -> None:
    inventory = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    documented = {line.split()[0] for line in zlib.decompress(inventory).decode().splitlines()}
    missing = [
        f"{package}.{name}"
        for package in PUBLIC_PACKAGES
        for name in importlib.import_module(package).__all__
        if f"{package}.{name}" not in documented and name != "__version__"
    ]
    assert missing == []


@pytest.mark.needs("chromium")
def test_every_page_is_readable_at_both_widths_in_the_colors_of_the_system(
    pages: list[Path], tab: Tab
) -> None:
    problems = []
    for path in pages:
        if "http-equiv" in path.read_text(encoding="utf-8"):
            continue  # a redirect
        tab.open(path.as_uri())
        for width in WIDTHS:
            tab.resize(width)
            for scheme in SCHEMES:
                tab.prefer(scheme)
                found = tab.evaluate(LAYOUT)
                problems += [f"{path.name} {width} {scheme}: {each}" for each in found]
        problems += [f"{path.name}: {each}" for each in tab.problems]
    assert problems == []


@pytest.mark.needs("chromium")
def test_search_finds_pages_without_a_server(site: Path, tab: Tab) -> None:
    tab.open(f"{(site / 'index.html').as_uri()}?q=redaction")
    found = tab.evaluate("""
      new Promise((done) => {
        const look = () => {
          const links = [...document.querySelectorAll(".md-search-result__link")];
          links.length ? done(links.map((each) => each.href)) : setTimeout(look, 50);
        };
        look();
      })
    """)
    assert any("operate/privacy.html" in each for each in found)
