"""Hooks of the documentation site (mkdocs.yml) for pages whose source is outside `docs/`.

The home page is README.md, and some other files of the repository are pages, too. Pages link to
source files by relative paths, as GitHub needs them. Each such file becomes a page under `files/`,
so that the site is complete without the repository. Links are changed to match.
"""

from __future__ import annotations

import re
from pathlib import Path
from posixpath import dirname, join, normpath, relpath
from typing import TYPE_CHECKING

from mkdocs.structure.files import File, Files, InclusionLevel
from pygments.lexers import find_lexer_class_for_filename

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
# Files that have a place in the navigation.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "reference/changelog.md",
    "CONTRIBUTING.md": "contribute/index.md",
    "RELEASING.md": "contribute/releasing.md",
    "SECURITY.md": "contribute/security.md",
}
# The target of a link or an image in Markdown or HTML, without its anchor.
_TARGET = re.compile(r"""(?<=\]\()[^)\s#]+|(?:(?<=\bsrc=")|(?<=\bsrcset=")|(?<=\bhref="))[^"#]+""")
# Copied as they are. Any other file is shown on a page.
_COPIED = {".gif", ".ipynb", ".jpg", ".png", ".svg", ".webp"}
# By page, the path of its source in the repository.
_sources: dict[str, str] = {}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of `PAGES`, and one for each file outside `docs/` that a page links to."""
    _sources.clear()
    _sources.update((file.src_uri, f"docs/{file.src_uri}") for file in files)
    pending = [file.src_uri for file in files.documentation_pages()]

    def add(source: str, **how: object) -> None:
        page = page_of(source)
        if page in _sources:
            return
        _sources[page] = source
        if page.endswith(".md"):
            pending.append(page)
            files.append(File.generated(config, page, content=text_of(source), **how))
        else:
            files.append(File.generated(config, page, abs_src_path=str(ROOT / source), **how))

    for source in PAGES:
        add(source)
    while pending:
        source = _sources[pending.pop()]
        for target in _TARGET.findall(text_of(source)):
            if linked := repository_path(target, source):
                add(linked, inclusion=InclusionLevel.NOT_IN_NAV)
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Change the links to files of the repository into links to their pages."""
    here = page.file.src_uri

    def link(match: re.Match[str]) -> str:
        linked = repository_path(match[0], _sources[here])
        return relpath(page_of(linked), dirname(here) or ".") if linked else match[0]

    return _TARGET.sub(link, markdown)


def repository_path(target: str, source: str) -> str | None:
    """Return the file or directory that a link in `source` leads to, from the repository's root.

    Return `None` for an address on another host and for a broken link, which mkdocs reports.
    """
    path = normpath(join(dirname(source), target))
    if path.startswith(("..", "/")) or not (ROOT / path).exists():
        return None
    indexes = (normpath(join(path, name)) for name in ("README.md", "index.md"))
    return next((each for each in indexes if (ROOT / each).exists()), path)


def page_of(source: str) -> str:
    """Return the page that shows a file or directory of the repository."""
    if source in PAGES:
        return PAGES[source]
    if source.startswith("docs/"):
        return source.removeprefix("docs/")
    path = ROOT / source
    if path.is_dir():
        return f"files/{source}/index.md"
    return f"files/{source}" if path.suffix in {".md", *_COPIED} else f"files/{source}.md"


def text_of(source: str) -> str:
    """Return a file of the repository as Markdown."""
    path = ROOT / source
    if source in PAGES or source.startswith("docs/"):
        return path.read_text(encoding="utf-8")
    if path.is_dir():
        names = sorted(each.name for each in path.iterdir() if each.name[0] not in "._")
        body = f"# {source}\n\n" + "".join(f"- [{name}]({path.name}/{name})\n" for name in names)
    elif path.suffix == ".md":
        body = path.read_text(encoding="utf-8")
    else:
        lexer = find_lexer_class_for_filename(path.name)
        code = path.read_text(encoding="utf-8").rstrip()
        body = f"# {source}\n\n~~~~{lexer.aliases[0] if lexer else 'text'}\n{code}\n~~~~\n"
    return f"---\nsearch: {{ exclude: true }}\n---\n{body}"
