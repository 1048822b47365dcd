"""The classes of the installed transformers that define `generate` or `generate_speech`."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedModel

_METHODS = ("generate", "generate_speech")


def classes_with_own_generate() -> list[tuple[Any, str]]:
    """Return the classes and their methods. Their modules are imported.

    Classes that are not models, such as exported programs and those for other frameworks, are left
    out, and so are modules that need a package that is not installed.
    """
    kinds: list[tuple[Any, str]] = []
    for module_name, class_name, method in _definitions():
        try:
            # The models of a base class in `generation_x` are in `modeling_x`.
            importlib.import_module(module_name.replace(".generation_", ".modeling_"))
            kinds.append((getattr(importlib.import_module(module_name), class_name), method))
        except ImportError:
            continue
    models = _models(PreTrainedModel)
    return [each for each in kinds if any(issubclass(model, each[0]) for model in models)]


def _models(kind: Any) -> set[Any]:
    return {kind}.union(*map(_models, type.__subclasses__(kind)))


def _definitions() -> Iterator[tuple[str, str, str]]:
    folder = Path(transformers.__file__).parent
    for path in sorted((folder / "models").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        # The others are for TensorFlow and Flax, or sources that the library is generated from.
        other = path.name.startswith(("modular_", "modeling_tf_", "modeling_flax_"))
        if other or not any(f"def {method}(" in text for method in _METHODS):
            continue
        module = ".".join(path.relative_to(folder.parent).with_suffix("").parts)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                for each in node.body:
                    if isinstance(each, ast.FunctionDef) and each.name in _METHODS:
                        yield module, node.name, each.name
