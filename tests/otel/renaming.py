"""Rename an identifier in OpenTelemetry's source code when it is imported, as a release might."""

from __future__ import annotations

import re
import sys
from importlib.abc import MetaPathFinder, SourceLoader
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader


class _Loader(SourceFileLoader):
    def __init__(self, fullname: str, path: str, identifier: str) -> None:
        super().__init__(fullname, path)
        self._identifier = identifier

    def get_code(self, fullname: str):
        # Skips the cache of compiled files.
        return SourceLoader.get_code(self, fullname)

    def path_stats(self, path: str):
        raise OSError("No cached code")

    def get_data(self, path: str) -> bytes:
        text = super().get_data(path).decode()
        new = f"renamed_{self._identifier}"
        text = re.sub(rf"\b{self._identifier}\b", new, text)
        # A name that is imported from another module, which keeps it.
        return re.sub(
            rf"import {new}$", f"import {self._identifier} as {new}", text, flags=re.MULTILINE
        ).encode()


class _Finder(MetaPathFinder):
    def __init__(self, identifier: str, module: str) -> None:
        self._identifier = identifier
        self._module = module

    def find_spec(self, fullname: str, path=None, target=None) -> ModuleSpec | None:
        if not fullname.startswith(self._module or "opentelemetry."):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(fullname, spec.loader.path, self._identifier)
        return spec


def rename(identifier: str, module: str = "") -> None:
    """Rename an identifier in all of OpenTelemetry, or in one module, before it is imported."""
    loaded = [name for name in sys.modules if name.startswith("opentelemetry.")]
    assert not loaded, loaded
    sys.meta_path.insert(0, _Finder(identifier, module))
