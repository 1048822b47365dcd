"""Names, units, descriptions and bucket boundaries of the GenAI instruments.

There are two sets of client metrics: those of v1.41, which released instrumentations and dashboards
use, and those of the newest merged conventions. Metrics of the engine have the same names in both.

Descriptions are those of the conventions, because two descriptions of one metric name conflict in
the OpenTelemetry data model. Boundaries are those of the conventions too. They are passed to the
SDK as advice: with its defaults (0 to 10000) all latencies in seconds would be in the first bucket.
"""

from __future__ import annotations

from typing import Final, NamedTuple

_DURATION_S: Final = (
    *(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64),
    *(1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
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
    """A histogram. Its `boundaries` are in `unit`."""

    name: str
    unit: str
    description: str
    boundaries: tuple[float, ...]


class CounterSpec(NamedTuple):
    """A monotonic counter."""

    name: str
    unit: str
    description: str


class GaugeSpec(NamedTuple):
    """A gauge."""

    name: str
    unit: str
    description: str


_FIRST_CHUNK: Final = (
    "Time to receive the first chunk, measured from when the client issues the generation request "
    "to when the first chunk is received in the response stream."
)
_PER_CHUNK: Final = (
    "Time per output chunk, recorded for each chunk received after the first one, measured as the "
    "time elapsed from the end of the previous chunk to the end of the current chunk."
)

# Client metrics of v1.41.
CLIENT_TOKEN_USAGE: Final = HistogramSpec(
    "gen_ai.client.token.usage", "{token}", "Number of input and output tokens used.", _TOKENS
)
CLIENT_OPERATION_DURATION: Final = HistogramSpec(
    "gen_ai.client.operation.duration", "s", "GenAI operation duration.", _DURATION_S
)
CLIENT_TIME_TO_FIRST_CHUNK: Final = HistogramSpec(
    "gen_ai.client.operation.time_to_first_chunk", "s", _FIRST_CHUNK, _DURATION_S
)
CLIENT_TIME_PER_OUTPUT_CHUNK: Final = HistogramSpec(
    "gen_ai.client.operation.time_per_output_chunk", "s", _PER_CHUNK, _DURATION_S
)

# Client metrics of the newest merged conventions.
INFERENCE_DURATION: Final = HistogramSpec(
    "gen_ai.client.inference.duration",
    "s",
    "GenAI client inference operation duration.",
    _DURATION_S,
)
INFERENCE_TIME_TO_FIRST_CHUNK: Final = HistogramSpec(
    "gen_ai.client.inference.time_to_first_chunk", "s", _FIRST_CHUNK, _DURATION_S
)
INFERENCE_TIME_PER_OUTPUT_CHUNK: Final = HistogramSpec(
    "gen_ai.client.inference.time_per_output_chunk", "s", _PER_CHUNK, _DURATION_S
)
INFERENCE_INPUT_TOKENS: Final = HistogramSpec(
    "gen_ai.client.inference.operation.input_tokens",
    "{token}",
    "The number of input (prompt) tokens used per inference operation.",
    _TOKENS,
)
INFERENCE_OUTPUT_TOKENS: Final = HistogramSpec(
    "gen_ai.client.inference.operation.output_tokens",
    "{token}",
    "The number of output (completion) tokens used per inference operation.",
    _TOKENS,
)
EMBEDDINGS_DURATION: Final = HistogramSpec(
    "gen_ai.client.embeddings.duration",
    "s",
    "GenAI client embeddings operation duration.",
    _DURATION_S,
)
EMBEDDINGS_INPUT_TOKENS: Final = HistogramSpec(
    "gen_ai.client.embeddings.operation.input_tokens",
    "{token}",
    "The number of input tokens used per embeddings operation.",
    _TOKENS,
)
USAGE_INPUT_TOKENS: Final = CounterSpec(
    "gen_ai.client.inference.usage.input_tokens",
    "{token}",
    "The number of input (prompt) tokens used, including cached tokens.",
)
USAGE_OUTPUT_TOKENS: Final = CounterSpec(
    "gen_ai.client.inference.usage.output_tokens",
    "{token}",
    "The number of output (completion) tokens used, including reasoning tokens.",
)
USAGE_CACHE_READ_TOKENS: Final = CounterSpec(
    "gen_ai.client.inference.usage.cache_read.input_tokens",
    "{token}",
    "The number of input tokens served from a provider-managed cache.",
)
USAGE_CACHE_WRITE_TOKENS: Final = CounterSpec(
    "gen_ai.client.inference.usage.cache_write.input_tokens",
    "{token}",
    "The number of input tokens written to a provider-managed cache.",
)
USAGE_REASONING_TOKENS: Final = CounterSpec(
    "gen_ai.client.inference.usage.reasoning.output_tokens",
    "{token}",
    "The number of output tokens used for reasoning (e.g. chain-of-thought, extended thinking).",
)

# Metrics of the engine.
SERVER_REQUEST_DURATION: Final = HistogramSpec(
    "gen_ai.server.request.duration",
    "s",
    "Generative AI server request duration such as time-to-last byte or last output token.",
    _DURATION_S,
)
SERVER_TIME_TO_FIRST_TOKEN: Final = HistogramSpec(
    "gen_ai.server.time_to_first_token",
    "s",
    "Time to generate first token for successful responses.",
    _FIRST_TOKEN_S,
)
SERVER_TIME_PER_OUTPUT_TOKEN: Final = HistogramSpec(
    "gen_ai.server.time_per_output_token",
    "s",
    "Time per output token generated after the first token for successful responses.",
    _PER_TOKEN_S,
)

# Tail sampling (llamatelemetry's own).
SAMPLING_SPANS: Final = CounterSpec(
    "llamatelemetry.sampling.spans",
    "{span}",
    "Number of spans that the tail sampler kept, dropped or evicted.",
)
SAMPLING_TRACES: Final = CounterSpec(
    "llamatelemetry.sampling.traces",
    "{trace}",
    "Number of traces that the tail sampler kept or dropped.",
)

# Redaction (llamatelemetry's own).
REDACTION_FAILURES: Final = CounterSpec(
    "llamatelemetry.redaction.failures",
    "{failure}",
    "Number of times that redaction failed. The text was dropped, not exported.",
)

# Items that a full export queue has dropped. The names are those of the conventions for SDKs.
SDK_SPANS_PROCESSED: Final = CounterSpec(
    "otel.sdk.processor.span.processed",
    "{span}",
    "The number of spans for which the processing has finished, either successful or failed.",
)
SDK_LOGS_PROCESSED: Final = CounterSpec(
    "otel.sdk.processor.log.processed",
    "{log_record}",
    "The number of log records for which the processing has finished, either successful or failed.",
)

# Limits of caches, maps and queues (llamatelemetry's own).
LIMIT_DROPPED: Final = CounterSpec(
    "llamatelemetry.limit.dropped",
    "{entry}",
    "Number of entries that were dropped because a cache, map or queue was full.",
)

# Collective operations (llamatelemetry's own).
COLLECTIVE_DURATION: Final = HistogramSpec(
    "llamatelemetry.collective.duration",
    "s",
    "Duration of one collective operation on the slowest rank.",
    (0.00001, 0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
)
# As nccl-tests define them.
COLLECTIVE_ALGORITHM_BANDWIDTH: Final = GaugeSpec(
    "llamatelemetry.collective.algorithm_bandwidth",
    "By/s",
    "Bytes over time of a collective operation.",
)
COLLECTIVE_BUS_BANDWIDTH: Final = GaugeSpec(
    "llamatelemetry.collective.bus_bandwidth",
    "By/s",
    "Speed of a collective over each rank's links.",
)

# Workflows, agents and tools.
WORKFLOW_DURATION: Final = HistogramSpec(
    "gen_ai.invoke_workflow.duration", "s", "Records duration of GenAI workflow.", _WORKFLOW_S
)
AGENT_DURATION: Final = HistogramSpec(
    "gen_ai.invoke_agent.duration",
    "s",
    "The end-to-end duration of a single in-process agent invocation, from the moment the "
    "invocation starts until the agent emits the last chunk of its final response or terminates "
    "with an error.",
    _AGENT_S,
)
AGENT_INFERENCE_CALLS: Final = HistogramSpec(
    "gen_ai.invoke_agent.inference_calls",
    "{inference_call}",
    "The number of inference (model) calls a GenAI agent makes during a single invocation.",
    _CALLS,
)
AGENT_TOOL_CALLS: Final = HistogramSpec(
    "gen_ai.invoke_agent.tool_calls",
    "{tool_call}",
    "The number of tool calls a GenAI agent makes during a single invocation.",
    _CALLS,
)
TOOL_DURATION: Final = HistogramSpec(
    "gen_ai.execute_tool.duration", "s", "The duration of a single tool execution.", _DURATION_S
)

PIPELINE: Final = (
    WORKFLOW_DURATION,
    AGENT_DURATION,
    AGENT_INFERENCE_CALLS,
    AGENT_TOOL_CALLS,
    TOOL_DURATION,
)
