"""Attribute names of the spans, metrics and events that llamatelemetry records.

The names `gen_ai.*`, `openai.*` and `server.*` are those of the OpenTelemetry semantic
conventions (newest merged text). They are spelled out here because the constants of
`opentelemetry-semantic-conventions` are deprecated and lack the newer names. The names
`llamatelemetry.*` and the phases in milliseconds (`gen_ai.*_ms`) are llamatelemetry's own.
"""

from __future__ import annotations

from typing import Final

# All GenAI calls.
GEN_AI_OPERATION_NAME: Final = "gen_ai.operation.name"
GEN_AI_PROVIDER_NAME: Final = "gen_ai.provider.name"
GEN_AI_CONVERSATION_ID: Final = "gen_ai.conversation.id"
GEN_AI_CONVERSATION_COMPACTED: Final = "gen_ai.conversation.compacted"
GEN_AI_OUTPUT_TYPE: Final = "gen_ai.output.type"
ERROR_TYPE: Final = "error.type"
USER_ID: Final = "user.id"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
URL_PATH: Final = "url.path"
HTTP_RESPONSE_STATUS_CODE: Final = "http.response.status_code"
HTTP_REQUEST_RESEND_COUNT: Final = "http.request.resend_count"

# Requests.
GEN_AI_REQUEST_MODEL: Final = "gen_ai.request.model"
GEN_AI_REQUEST_STREAM: Final = "gen_ai.request.stream"
GEN_AI_REQUEST_CHOICE_COUNT: Final = "gen_ai.request.choice.count"
GEN_AI_REQUEST_SEED: Final = "gen_ai.request.seed"
GEN_AI_REQUEST_TOP_K: Final = "gen_ai.request.top_k"
GEN_AI_REQUEST_TOP_P: Final = "gen_ai.request.top_p"
GEN_AI_REQUEST_TEMPERATURE: Final = "gen_ai.request.temperature"
GEN_AI_REQUEST_FREQUENCY_PENALTY: Final = "gen_ai.request.frequency_penalty"
GEN_AI_REQUEST_PRESENCE_PENALTY: Final = "gen_ai.request.presence_penalty"
GEN_AI_REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
GEN_AI_REQUEST_STOP_SEQUENCES: Final = "gen_ai.request.stop_sequences"
GEN_AI_REQUEST_REASONING_LEVEL: Final = "gen_ai.request.reasoning.level"
GEN_AI_REQUEST_PREVIOUS_RESPONSE_ID: Final = "gen_ai.request.previous_response.id"
GEN_AI_REQUEST_STREAM_CURSOR: Final = "gen_ai.request.stream_cursor"
GEN_AI_REQUEST_ENCODING_FORMATS: Final = "gen_ai.request.encoding_formats"
GEN_AI_EMBEDDINGS_DIMENSION_COUNT: Final = "gen_ai.embeddings.dimension.count"
GEN_AI_PROMPT_NAME: Final = "gen_ai.prompt.name"
GEN_AI_PROMPT_VERSION: Final = "gen_ai.prompt.version"

# Responses.
GEN_AI_RESPONSE_ID: Final = "gen_ai.response.id"
GEN_AI_RESPONSE_MODEL: Final = "gen_ai.response.model"
GEN_AI_RESPONSE_STATUS: Final = "gen_ai.response.status"
GEN_AI_RESPONSE_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
GEN_AI_USAGE_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
GEN_AI_USAGE_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
GEN_AI_USAGE_CACHE_WRITE_INPUT_TOKENS: Final = "gen_ai.usage.cache_write.input_tokens"
GEN_AI_USAGE_REASONING_OUTPUT_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"
GEN_AI_USAGE_TEXT_INPUT_TOKENS: Final = "gen_ai.usage.text.input_tokens"
GEN_AI_USAGE_IMAGE_INPUT_TOKENS: Final = "gen_ai.usage.image.input_tokens"
GEN_AI_USAGE_AUDIO_INPUT_TOKENS: Final = "gen_ai.usage.audio.input_tokens"
GEN_AI_USAGE_TEXT_CACHE_READ_INPUT_TOKENS: Final = "gen_ai.usage.text.cache_read.input_tokens"
GEN_AI_USAGE_IMAGE_CACHE_READ_INPUT_TOKENS: Final = "gen_ai.usage.image.cache_read.input_tokens"
GEN_AI_USAGE_AUDIO_CACHE_READ_INPUT_TOKENS: Final = "gen_ai.usage.audio.cache_read.input_tokens"
GEN_AI_USAGE_TEXT_OUTPUT_TOKENS: Final = "gen_ai.usage.text.output_tokens"
GEN_AI_USAGE_IMAGE_OUTPUT_TOKENS: Final = "gen_ai.usage.image.output_tokens"
GEN_AI_USAGE_AUDIO_OUTPUT_TOKENS: Final = "gen_ai.usage.audio.output_tokens"

# OpenAI only.
OPENAI_API_TYPE: Final = "openai.api.type"
OPENAI_REQUEST_SERVICE_TIER: Final = "openai.request.service_tier"
OPENAI_RESPONSE_SERVICE_TIER: Final = "openai.response.service_tier"
OPENAI_RESPONSE_SYSTEM_FINGERPRINT: Final = "openai.response.system_fingerprint"

# Content, recorded only if capture is enabled.
GEN_AI_INPUT_MESSAGES: Final = "gen_ai.input.messages"
GEN_AI_OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
GEN_AI_SYSTEM_INSTRUCTIONS: Final = "gen_ai.system_instructions"
GEN_AI_TOOL_DEFINITIONS: Final = "gen_ai.tool.definitions"

# Workflows, agents and tools.
GEN_AI_WORKFLOW_NAME: Final = "gen_ai.workflow.name"
GEN_AI_AGENT_NAME: Final = "gen_ai.agent.name"
GEN_AI_AGENT_DESCRIPTION: Final = "gen_ai.agent.description"
GEN_AI_TOOL_NAME: Final = "gen_ai.tool.name"
GEN_AI_TOOL_TYPE: Final = "gen_ai.tool.type"
GEN_AI_TOOL_DESCRIPTION: Final = "gen_ai.tool.description"
GEN_AI_TOOL_CALL_ID: Final = "gen_ai.tool.call.id"
GEN_AI_TOOL_CALL_ARGUMENTS: Final = "gen_ai.tool.call.arguments"
GEN_AI_TOOL_CALL_RESULT: Final = "gen_ai.tool.call.result"

# Metrics only.
GEN_AI_TOKEN_TYPE: Final = "gen_ai.token.type"
GEN_AI_TOKEN_MODALITY: Final = "gen_ai.token.modality"

# Measurements and properties that the engine reports.
PREFILL_MS: Final = "gen_ai.prefill_ms"
DECODE_MS: Final = "gen_ai.decode_ms"
TTFT_MS: Final = "gen_ai.ttft_ms"
TPOT_MS: Final = "gen_ai.tpot_ms"
# Cost that the server reported. Not in the conventions; other instrumentations use this name.
GEN_AI_USAGE_COST: Final = "gen_ai.usage.cost"
SERVER_TIME_TO_FIRST_TOKEN: Final = "gen_ai.server.time_to_first_token"
SERVER_TIME_PER_OUTPUT_TOKEN: Final = "gen_ai.server.time_per_output_token"
# The names of engines' own spans. Not in the conventions.
GEN_AI_LATENCY_TIME_IN_QUEUE: Final = "gen_ai.latency.time_in_queue"
GEN_AI_LATENCY_TIME_IN_MODEL_PREFILL: Final = "gen_ai.latency.time_in_model_prefill"
GEN_AI_LATENCY_TIME_IN_MODEL_DECODE: Final = "gen_ai.latency.time_in_model_decode"
GEN_AI_LATENCY_TIME_IN_MODEL_INFERENCE: Final = "gen_ai.latency.time_in_model_inference"
GEN_AI_LATENCY_TIME_TO_FIRST_TOKEN: Final = "gen_ai.latency.time_to_first_token"
GEN_AI_LATENCY_E2E: Final = "gen_ai.latency.e2e"
QUEUE_DURATION: Final = "llamatelemetry.queue_duration"
QUEUE_SOURCE: Final = "llamatelemetry.queue_source"
CACHED_TOKENS: Final = "llamatelemetry.cached_tokens"
PROMPT_TOKENS: Final = "llamatelemetry.prompt_tokens"
PREDICTED_TOKENS: Final = "llamatelemetry.predicted_tokens"
DRAFTED_TOKENS: Final = "llamatelemetry.drafted_tokens"
ACCEPTED_TOKENS: Final = "llamatelemetry.accepted_tokens"
SLOT: Final = "llamatelemetry.slot"
TRUNCATED: Final = "llamatelemetry.truncated"
ERROR_PROMPT_TOKENS: Final = "llamatelemetry.error.prompt_tokens"
ERROR_CONTEXT_SIZE: Final = "llamatelemetry.error.context_size"
PHASE: Final = "llamatelemetry.phase"
TASK: Final = "llamatelemetry.task"

# Diagnostics: what explains the duration of a call. Times are seconds since the start of its span.
CLIENT_SENT: Final = "llamatelemetry.client.sent"
CLIENT_HEADERS: Final = "llamatelemetry.client.headers"
CLIENT_LAST_DATA: Final = "llamatelemetry.client.last_data"
CLIENT_CONNECT: Final = "llamatelemetry.client.connect"
CLIENT_ATTEMPTS: Final = "llamatelemetry.client.attempts"
CLIENT_LAST_ATTEMPT: Final = "llamatelemetry.client.last_attempt"
CLIENT_READ_DELAY: Final = "llamatelemetry.client.read_delay"
CLIENT_GAPS: Final = "llamatelemetry.client.gaps"
LOOP_BLOCKED: Final = "llamatelemetry.loop.blocked"
PROMPT_SECTIONS: Final = "llamatelemetry.prompt.sections"
PROMPT_CHARS: Final = "llamatelemetry.prompt.chars"
PROMPT_REFERENCE: Final = "llamatelemetry.prompt.reference"
PROMPT_COMMON_CHARS: Final = "llamatelemetry.prompt.common_chars"
PROMPT_SAME_CHARS: Final = "llamatelemetry.prompt.same_chars"
PROMPT_FIRST_CHANGE: Final = "llamatelemetry.prompt.first_change"
PROMPT_CHANGE_AT: Final = "llamatelemetry.prompt.change_at"
PROMPT_PREFIX_REFERENCE: Final = "llamatelemetry.prompt.prefix_reference"
PROMPT_PREFIX_CHARS: Final = "llamatelemetry.prompt.prefix_chars"
REQUEST_CACHE_PROMPT: Final = "llamatelemetry.request.cache_prompt"
REQUEST_ID_SLOT: Final = "llamatelemetry.request.id_slot"
SERVER_CPU: Final = "llamatelemetry.server.cpu"
SERVER_RUN_DELAY: Final = "llamatelemetry.server.run_delay"
SERVER_STOPPED: Final = "llamatelemetry.server.stopped"
SERVER_THROTTLED: Final = "llamatelemetry.server.throttled"
SERVER_PROCESS_START: Final = "llamatelemetry.server.process_start"

# Sampling decisions.
SAMPLING_RULE: Final = "llamatelemetry.sampling.rule"
SAMPLING_RATE: Final = "llamatelemetry.sampling.rate"
SAMPLING_DECISION: Final = "llamatelemetry.sampling.decision"
LIMIT_NAME: Final = "llamatelemetry.limit.name"

# Models in this process.
MODEL_ARCHITECTURE: Final = "llamatelemetry.model.architecture"
MODEL_PARAMETER_COUNT: Final = "llamatelemetry.model.parameter_count"
MODEL_DTYPE: Final = "llamatelemetry.model.dtype"
MODEL_DEVICE: Final = "llamatelemetry.model.device"
MODEL_QUANTIZATION: Final = "llamatelemetry.model.quantization"
MODEL_ATTENTION: Final = "llamatelemetry.model.attention_implementation"
GENERATION_MODE: Final = "llamatelemetry.generation.mode"
GENERATION_BEAMS: Final = "llamatelemetry.generation.beams"
GENERATION_STEPS: Final = "llamatelemetry.generation.steps"
GENERATION_FINISH_CAUSES: Final = "llamatelemetry.generation.finish_causes"
GENERATION_REPETITION_PENALTY: Final = "llamatelemetry.generation.repetition_penalty"
GENERATION_TOKENS_PER_SECOND: Final = "llamatelemetry.generation.tokens_per_second"
BATCH_SIZE: Final = "llamatelemetry.batch.size"
BATCH_INPUT_TOKENS: Final = "llamatelemetry.batch.input_tokens"
BATCH_OUTPUT_TOKENS: Final = "llamatelemetry.batch.output_tokens"
CUDA_DEVICES: Final = "llamatelemetry.cuda.devices"
CUDA_MEMORY_ALLOCATED: Final = "llamatelemetry.cuda.memory_allocated"
CUDA_MEMORY_PEAK: Final = "llamatelemetry.cuda.memory_peak"

# Managed servers.
SERVER_BINARY: Final = "llamatelemetry.server.binary"
SERVER_BUILD: Final = "llamatelemetry.server.build"
SERVER_CONTEXT_LENGTH: Final = "llamatelemetry.server.context_length"
SERVER_FLAGS: Final = "llamatelemetry.server.flags"
SERVER_GPU_LAYERS: Final = "llamatelemetry.server.gpu_layers"
SERVER_LOAD_DURATION: Final = "llamatelemetry.server.load_duration"
SERVER_MEMORY_COMPUTE: Final = "llamatelemetry.server.memory.compute"
SERVER_MEMORY_CONTEXT: Final = "llamatelemetry.server.memory.context"
SERVER_MEMORY_DEVICES: Final = "llamatelemetry.server.memory.devices"
SERVER_MEMORY_MODEL: Final = "llamatelemetry.server.memory.model"
SERVER_MODEL_ALIAS: Final = "llamatelemetry.server.model_alias"
SERVER_MODEL_FILE: Final = "llamatelemetry.server.model_file"
SERVER_MODEL_SIZE: Final = "llamatelemetry.server.model_size"
SERVER_QUANTIZATION: Final = "llamatelemetry.server.quantization"
SERVER_SLOTS: Final = "llamatelemetry.server.slots"

# Collective operations, which the conventions do not cover. Rank, world size and backend are on the
# resource; all but the rank are on metrics.
COLLECTIVE_RANK: Final = "llamatelemetry.collective.rank"
COLLECTIVE_WORLD_SIZE: Final = "llamatelemetry.collective.world_size"
COLLECTIVE_BACKEND: Final = "llamatelemetry.collective.backend"
COLLECTIVE_OPERATION: Final = "llamatelemetry.collective.operation"
COLLECTIVE_SIZE: Final = "llamatelemetry.collective.size"
"""Bytes that each rank contributes."""

_BY_SHORT_NAME: Final = {
    constant.removeprefix("GEN_AI_").lower(): value
    for constant, value in list(globals().items())
    if constant.isupper() and isinstance(value, str)
}


def attribute_name(short: str) -> str:
    """Return the full name of an attribute. A name that is not a known short name stays as it is.

    | Short name | Full name |
    |---|---|
    | `response_id` | `gen_ai.response.id` |
    | `error_type` | `error.type` |
    | `queue_duration` | `llamatelemetry.queue_duration` |
    | `team` | `team` |

    Examples:
        >>> from llamatelemetry.semconv import attribute_name
        >>> attribute_name("response_id"), attribute_name("team")
        ('gen_ai.response.id', 'team')
    """
    return _BY_SHORT_NAME.get(short, short)
