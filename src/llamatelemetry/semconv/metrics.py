"""Names, units, descriptions and bucket boundaries of the GenAI instruments.

There are two sets of names for what a client measures: those of v1.41 (`V1_41`), which the
released ecosystem and its dashboards use, and the newest merged ones (`LATEST`). What an engine
measures (`SERVER`) has the same names in both.

The boundaries are the conventions'. They go to the SDK as advice on the instrument: with the
SDK's own defaults (0 to 10000) every latency in seconds would fall into the first bucket.
"""

from __future__ import annotations

from typing import Final, NamedTuple

_DURATION_S: Final = (
    0.01,
    0.02,
    0.04,
    0.08,
    0.16,
    0.32,
    0.64,
    1.28,
    2.56,
    5.12,
    10.24,
    20.48,
    40.96,
    81.92,
)
_TOKENS: Final = tuple(float(4**exponent) for exponent in range(14))
_FIRST_TOKEN_S: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1),
    *(0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
_AGENT_S: Final = tuple(0.1 * 2**exponent for exponent in range(13))
_WORKFLOW_S: Final = (1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0)
_CALLS: Final = tuple(float(2**exponent) for exponent in range(8))
_PER_TOKEN_S: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)


class HistogramSpec(NamedTuple):
    """A histogram of the conventions. ``boundaries`` are in ``unit``."""

    name: str
    unit: str
    description: str
    boundaries: tuple[float, ...]


class CounterSpec(NamedTuple):
    """A monotonic counter of the conventions."""

    name: str
    unit: str
    description: str


# --- the client's, v1.41 --------------------------------------------------------------
CLIENT_TOKEN_USAGE: Final = HistogramSpec(
    "gen_ai.client.token.usage", "{token}", "Number of input and output tokens used.", _TOKENS
)
CLIENT_OPERATION_DURATION: Final = HistogramSpec(
    "gen_ai.client.operation.duration", "s", "GenAI operation duration.", _DURATION_S
)
CLIENT_TIME_TO_FIRST_CHUNK: Final = HistogramSpec(
    "gen_ai.client.operation.time_to_first_chunk",
    "s",
    "Time until the first chunk of a stream arrived.",
    _DURATION_S,
)
CLIENT_TIME_PER_OUTPUT_CHUNK: Final = HistogramSpec(
    "gen_ai.client.operation.time_per_output_chunk",
    "s",
    "Time between one chunk of a stream and the next.",
    _DURATION_S,
)

# --- the client's, newest merged ------------------------------------------------------
INFERENCE_DURATION: Final = HistogramSpec(
    "gen_ai.client.inference.duration", "s", "GenAI inference operation duration.", _DURATION_S
)
INFERENCE_TIME_TO_FIRST_CHUNK: Final = HistogramSpec(
    "gen_ai.client.inference.time_to_first_chunk",
    "s",
    "Time until the first chunk of a stream arrived.",
    _DURATION_S,
)
INFERENCE_TIME_PER_OUTPUT_CHUNK: Final = HistogramSpec(
    "gen_ai.client.inference.time_per_output_chunk",
    "s",
    "Time between one chunk of a stream and the next.",
    _DURATION_S,
)
INFERENCE_INPUT_TOKENS: Final = HistogramSpec(
    "gen_ai.client.inference.operation.input_tokens",
    "{token}",
    "Number of input tokens used per inference operation.",
    _TOKENS,
)
INFERENCE_OUTPUT_TOKENS: Final = HistogramSpec(
    "gen_ai.client.inference.operation.output_tokens",
    "{token}",
    "Number of output tokens used per inference operation.",
    _TOKENS,
)
EMBEDDINGS_DURATION: Final = HistogramSpec(
    "gen_ai.client.embeddings.duration", "s", "GenAI embeddings operation duration.", _DURATION_S
)
EMBEDDINGS_INPUT_TOKENS: Final = HistogramSpec(
    "gen_ai.client.embeddings.operation.input_tokens",
    "{token}",
    "Number of input tokens used per embeddings operation.",
    _TOKENS,
)
USAGE_INPUT_TOKENS: Final = CounterSpec(
    "gen_ai.client.inference.usage.input_tokens",
    "{token}",
    "Number of input tokens used, cached ones included.",
)
USAGE_OUTPUT_TOKENS: Final = CounterSpec(
    "gen_ai.client.inference.usage.output_tokens",
    "{token}",
    "Number of output tokens used, reasoning included.",
)
USAGE_CACHE_READ_TOKENS: Final = CounterSpec(
    "gen_ai.client.inference.usage.cache_read.input_tokens",
    "{token}",
    "Number of input tokens served from the provider's cache.",
)
USAGE_CACHE_WRITE_TOKENS: Final = CounterSpec(
    "gen_ai.client.inference.usage.cache_write.input_tokens",
    "{token}",
    "Number of input tokens written to the provider's cache.",
)
USAGE_REASONING_TOKENS: Final = CounterSpec(
    "gen_ai.client.inference.usage.reasoning.output_tokens",
    "{token}",
    "Number of output tokens used for reasoning.",
)

# --- the engine's ---------------------------------------------------------------------
SERVER_REQUEST_DURATION: Final = HistogramSpec(
    "gen_ai.server.request.duration",
    "s",
    "Time the engine had the request: queue, prefill and decode.",
    _DURATION_S,
)
SERVER_TIME_TO_FIRST_TOKEN: Final = HistogramSpec(
    "gen_ai.server.time_to_first_token",
    "s",
    "Time the engine took to the first token: queue and prefill.",
    _FIRST_TOKEN_S,
)
SERVER_TIME_PER_OUTPUT_TOKEN: Final = HistogramSpec(
    "gen_ai.server.time_per_output_token",
    "s",
    "Time the engine took per output token after the first.",
    _PER_TOKEN_S,
)

# --- what sampling decided (ours) -----------------------------------------------------
SAMPLING_SPANS: Final = CounterSpec(
    "llamatelemetry.sampling.spans",
    "{span}",
    "Number of spans that sampling at the end of a trace has kept, dropped or evicted.",
)
SAMPLING_TRACES: Final = CounterSpec(
    "llamatelemetry.sampling.traces",
    "{trace}",
    "Number of traces that sampling at their end has kept or dropped.",
)

# --- what is made of calls: workflows, agents, tools ----------------------------------
WORKFLOW_DURATION: Final = HistogramSpec(
    "gen_ai.invoke_workflow.duration", "s", "Duration of a workflow.", _WORKFLOW_S
)
AGENT_DURATION: Final = HistogramSpec(
    "gen_ai.invoke_agent.duration", "s", "Duration of an agent's invocation.", _AGENT_S
)
AGENT_INFERENCE_CALLS: Final = HistogramSpec(
    "gen_ai.invoke_agent.inference_calls",
    "{inference_call}",
    "Number of calls to models in an agent's invocation.",
    _CALLS,
)
AGENT_TOOL_CALLS: Final = HistogramSpec(
    "gen_ai.invoke_agent.tool_calls",
    "{tool_call}",
    "Number of tools run in an agent's invocation.",
    _CALLS,
)
TOOL_DURATION: Final = HistogramSpec(
    "gen_ai.execute_tool.duration", "s", "Duration of a tool's execution.", _DURATION_S
)

V1_41: Final = (
    CLIENT_TOKEN_USAGE,
    CLIENT_OPERATION_DURATION,
    CLIENT_TIME_TO_FIRST_CHUNK,
    CLIENT_TIME_PER_OUTPUT_CHUNK,
)
LATEST: Final = (
    INFERENCE_DURATION,
    INFERENCE_TIME_TO_FIRST_CHUNK,
    INFERENCE_TIME_PER_OUTPUT_CHUNK,
    INFERENCE_INPUT_TOKENS,
    INFERENCE_OUTPUT_TOKENS,
    USAGE_INPUT_TOKENS,
    USAGE_OUTPUT_TOKENS,
    USAGE_CACHE_READ_TOKENS,
    USAGE_CACHE_WRITE_TOKENS,
    USAGE_REASONING_TOKENS,
    EMBEDDINGS_DURATION,
    EMBEDDINGS_INPUT_TOKENS,
    CLIENT_OPERATION_DURATION,  # of every other operation
)
SERVER: Final = (
    SERVER_REQUEST_DURATION,
    SERVER_TIME_TO_FIRST_TOKEN,
    SERVER_TIME_PER_OUTPUT_TOKEN,
)
PIPELINE: Final = (
    WORKFLOW_DURATION,
    AGENT_DURATION,
    AGENT_INFERENCE_CALLS,
    AGENT_TOOL_CALLS,
    TOOL_DURATION,
)
