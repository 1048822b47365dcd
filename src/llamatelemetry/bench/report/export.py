"""Printing and files, common to benchmark results, sweeps and comparisons."""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Final

from llamatelemetry._table import html_table
from llamatelemetry._whole_files import whole_file
from llamatelemetry.bench.report.tables import render_markdown
from llamatelemetry.bench.report.terminal import render_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from llamatelemetry.bench.report.tables import Table

# The directory may be read-only, and a single file may be mounted into a container.
_CANNOT_REPLACE: Final = frozenset({errno.EACCES, errno.EPERM, errno.EBUSY, errno.EROFS})


class Printable(ABC):
    """Base class of data with a printable table."""

    @abstractmethod
    def _table(self) -> Table: ...

    def summary(self) -> str:
        """Return a printable table of the most important values, with notes and warnings."""
        return render_text(self._table())

    def __str__(self) -> str:
        return self.summary()

    def _repr_html_(self) -> str:
        """Return the table for a notebook."""
        table = self._table()
        return html_table(table.title, table.header, table.rows, notes=table.notes)

    def to_markdown(self) -> str:
        """Return the table of `summary()` as Markdown."""
        return render_markdown(self._table())


class Exportable(Printable):
    """Base class of data that can be saved as JSON, Markdown or HTML."""

    @abstractmethod
    def to_json(self) -> str:
        """Return everything as JSON. `schema` names the version of the format."""

    @abstractmethod
    def _page(self) -> str: ...

    def to_html(self, path: str | Path | None = None) -> str:
        """Return a self-contained HTML page with plots, and write it to `path` if given.

        Raises:
            ImportError: Jinja2 is not installed.
        """
        return write_page(self._page(), path)

    def save(self, path: str | Path) -> Path:
        """Write a file and return its path. The suffix selects the format.

        `.md` and `.html`, and for benchmark results `.csv`, select these formats. Any other
        suffix selects JSON. An existing file is kept if the new one cannot be written.

        Raises:
            OSError: The file cannot be written.
        """
        path = Path(path)
        _write(self._formats().get(path.suffix.lower(), self.to_json)(), path)
        return path

    def _formats(self) -> dict[str, Callable[[], str]]:
        return {".md": self.to_markdown, ".html": self.to_html}


def write_page(page: str, path: str | Path | None) -> str:
    """Write a page to `path` if given, and return it."""
    if path is not None:
        _write(page, Path(path))
    return page


def _write(text: str, path: Path) -> None:
    """Write a file. As far as the system allows it, an error leaves the earlier file as it was."""
    if path.is_file() or not path.exists():  # not /dev/stdout
        try:
            _replace(path.resolve(), text)  # A symbolic link stays.
            return
        except OSError as error:
            if error.errno not in _CANNOT_REPLACE:
                raise
    path.write_text(text, encoding="utf-8", errors="replace")


def _replace(path: Path, text: str) -> None:
    mode = path.stat().st_mode if path.exists() else None
    with whole_file(path) as file:
        file.write(text)
    if mode is not None:
        path.chmod(mode)
