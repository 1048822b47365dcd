"""llama.cpp's server in this process, without llamatelemetry's own classes."""

from __future__ import annotations

import importlib
from typing import Any

from llamatelemetry.llama.embedded import find_demo_model


def make_embedded_server() -> Any:
    """Start llama.cpp's server in this process, with the demo model and two slots."""
    xllamacpp = importlib.import_module("xllamacpp")
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(find_demo_model())
    parameters.n_ctx = 1024
    parameters.n_parallel = 2
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    parameters.warmup = False
    parameters.embedding = True
    parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    return xllamacpp.Server(parameters)
