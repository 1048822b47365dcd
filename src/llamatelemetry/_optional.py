"""Optional packages: imported where they are used, with an error that names the install command."""

from __future__ import annotations

import importlib.util
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Generator

# Namespaces that hold many distributions: only the full name says which one is missing.
_NAMESPACES: Final = frozenset({"google", "opentelemetry"})


class MissingPackageError(ImportError):
    """A package that a feature needs is not installed.

    Attributes:
        package: Import name of the package.
        command: Shell command that installs it.
    """

    def __init__(self, feature: str, module: str, requirements: tuple[str, ...]) -> None:
        import shlex  # here, because every program imports this module

        root = module.partition(".")[0]
        self.package = module if root in _NAMESPACES else root
        self.command = f"pip install {shlex.join(requirements)}"
        super().__init__(f"{feature} needs {self.package}. Install it: {self.command}", name=module)


@contextmanager
def required_by(feature: str, *requirements: str) -> Generator[None]:
    """Run imports of optional packages. If one is missing, raise an error with the install command.

    Args:
        feature: Subject of the message, such as `to_dataframe()`.
        requirements: Arguments for `pip install`.

    Raises:
        MissingPackageError: A module imported in the block is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingPackageError(feature, error.name or "a package", requirements) from error


def require(feature: str, module: str, *requirements: str) -> None:
    """Raise before the work, not in the middle of it, if a module is not installed.

    Args:
        feature: Subject of the message.
        module: Import name. It is not imported.
        requirements: Arguments for `pip install`.

    Raises:
        MissingPackageError: The module is not installed.
    """
    if importlib.util.find_spec(module) is None:
        raise MissingPackageError(feature, module, requirements)
