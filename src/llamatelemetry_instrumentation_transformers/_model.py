"""Description of a model, read once per model and kept only as long as the model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary, ref

from llamatelemetry.genai import get_field, model_name
from llamatelemetry.semconv import attributes as names

if TYPE_CHECKING:
    from opentelemetry.util.types import AttributeValue


_names: Final[WeakKeyDictionary[Any, str | None]] = WeakKeyDictionary()
_described: Final[WeakKeyDictionary[Any, dict[str, AttributeValue]]] = WeakKeyDictionary()
_parameters: Final[WeakKeyDictionary[Any, ref[Any]]] = WeakKeyDictionary()


def name_of(model: Any) -> str | None:
    """Return the name on the Hub, or the name of the model's directory, never a path."""
    if model not in _names:
        _names[model] = _name(model)
    return _names[model]


def describe(model: Any) -> dict[str, AttributeValue]:
    """Return size, data type, device and quantization of a model as attributes."""
    cached = _described.get(model)
    if cached is None:
        cached = _described[model] = _attributes(model)
    attributes = dict(cached)
    parameter = _any_parameter(model)
    if parameter is not None:
        # A model can be moved or converted at any time.
        attributes[names.MODEL_DTYPE] = str(parameter.dtype).removeprefix("torch.")
        attributes[names.MODEL_DEVICE] = str(parameter.device)
    attention = getattr(model.config, "_attn_implementation", None)
    if isinstance(attention, str):
        attributes[names.MODEL_ATTENTION] = attention
    return attributes


def devices_of(model: Any) -> tuple[Any, ...]:
    """Return the CUDA devices of a model."""
    device_map = getattr(model, "hf_device_map", None)
    if device_map:
        return tuple(sorted(filter(_is_cuda, set(device_map.values())), key=str))
    parameter = _any_parameter(model)
    return () if parameter is None or parameter.device.type != "cuda" else (parameter.device,)


def _is_cuda(device: Any) -> bool:
    return isinstance(device, int) or str(device).startswith("cuda")


def _any_parameter(model: Any) -> Any:
    """Return any parameter of a model, cached: finding one takes longer than the rest of a description."""
    cached = _parameters.get(model)
    parameter = None if cached is None else cached()
    # Models of frameworks other than torch have no `parameters`.
    if parameter is None and hasattr(model, "parameters"):
        parameter = next(iter(model.parameters()), None)
        if parameter is not None:
            _parameters[model] = ref(parameter)
    return parameter


def _name(model: Any) -> str | None:
    given = getattr(model, "name_or_path", None) or getattr(model.config, "_name_or_path", None)
    name = model_name(given)
    # `models/smol` may be a directory or a name on the Hub. Only the file system can tell.
    return Path(name).name if name is not None and "/" in name and Path(name).exists() else name


def _attributes(model: Any) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {
        names.MODEL_ARCHITECTURE: type(model).__name__,
        names.MODEL_PARAMETER_COUNT: model.num_parameters(),
    }
    method = get_field(getattr(model.config, "quantization_config", None), "quant_method")
    if method is not None:
        attributes[names.MODEL_QUANTIZATION] = str(getattr(method, "value", method))
    return attributes
