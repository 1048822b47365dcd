"""Attribute names that hold prompts and completions, and names that hold secrets.

The content names are those of the OpenTelemetry conventions, old and new, and of
opentelemetry-util-genai, OpenInference, OpenLLMetry, OpenLIT, Langfuse, MLflow, Logfire,
LangSmith, Braintrust, Haystack, CrewAI and the Vercel AI SDK, as in their releases of 2025 and
2026. `*` stands for any text, dots included.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from enum import Enum
from functools import cache
from typing import Final

from llamatelemetry._limits import Limit
from llamatelemetry.config import SECRET_PARAMETER

CONTENT: Final = (
    # OpenTelemetry and util-genai; `gen_ai.prompt.*` and `gen_ai.completion.*` are OpenLLMetry's.
    *("gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.system_instructions"),
    *("gen_ai.prompt", "gen_ai.completion", "gen_ai.prompt.*", "gen_ai.completion.*"),
    *("gen_ai.tool.definitions", "gen_ai.tool.call.arguments", "gen_ai.tool.call.result"),
    *("gen_ai.tool.description", "gen_ai.tool.args", "gen_ai.tool.input", "gen_ai.tool.output"),
    *("gen_ai.tool.parameters", "gen_ai.tool.result", "gen_ai.tool.message"),
    *("gen_ai.retrieval.query.text", "gen_ai.retrieval.documents", "gen_ai.retrieval.query"),
    *("gen_ai.memory.query.text", "gen_ai.memory.records", "gen_ai.memory.record.content"),
    *("gen_ai.evaluation.explanation", "gen_ai.request.stop_sequences"),
    *("gen_ai.system.message*", "gen_ai.user.message*", "gen_ai.assistant.message*"),
    *("gen_ai.tool.message*", "gen_ai.choice*", "gen_ai.event.content"),
    *("gen_ai.agent.instructions", "gen_ai.agent.description", "gen_ai.data_source.query"),
    *("gen_ai.input", "gen_ai.output", "gen_ai.response.text", "gen_ai.reasoning"),
    # OpenLIT
    *("gen_ai.content", "gen_ai.content.*", "gen_ai.workflow.input", "gen_ai.workflow.output"),
    *("gen_ai.agent.*_output", "gen_ai.agent.*input", "gen_ai.agent.finish.output"),
    *("gen_ai.agent.final_result", "gen_ai.agent.tool_results", "gen_ai.agent.step_messages"),
    *("gen_ai.agent.context", "gen_ai.agent.memory", "gen_ai.agent.params", "gen_ai.agent.task"),
    *("gen_ai.agent.action_errors", "gen_ai.agent.tool.errors", "gen_ai.*backstory"),
    *("gen_ai.*goal", "gen_ai.*description", "gen_ai.*.search.query", "gen_ai.*memory.input"),
    *("gen_ai.memory.metadata", "gen_ai.browser.action.value", "gen_ai.custom.data"),
    *("gen_ai.execution.*put", "gen_ai.execution.error", "gen_ai.extraction.instruction"),
    *("gen_ai.*.error.message", "gen_ai.framework.pipeline.*data", "gen_ai.framework.query.text"),
    *("gen_ai.framework.text.processed", "gen_ai.message.content", "gen_ai.smolagents.planning"),
    *("gen_ai.request.speech.prompt", "gen_ai.response.audio.text", "gen_ai.response.title"),
    *("gen_ai.response.image", "gen_ai.response.speech.*transcript", "gen_ai.response.tool_calls"),
    *("gen_ai.response.error", "gen_ai.response.warning", "gen_ai.task.*put", "gen_ai.tool.error"),
    *("gen_ai.tool.input_kwargs", "gen_ai.tool.schema", "error.response_text"),
    *("mcp.*.argument*", "mcp.completion.values", "mcp.error.data", "mcp.*.description"),
    *("mcp.*error.message", "mcp.params", "mcp.progress.message", "mcp.*.instructions"),
    *("mcp.response.payload", "mcp.response.value", "mcp.*result", "mcp.sampling.messages"),
    *("db.*where_document", "db.update.values", "db*.metadata", "db.search.result.entity"),
    # OpenLLMetry
    *("haystack.*completion", "llm.content.*", "db.query.embeddings", "db.*.search.query"),
    *("pinecone.query.queries", "gen_ai.request.structured_output_schema"),
    *("traceloop.entity.input", "traceloop.entity.output", "traceloop.prompt.template*"),
    *("llm.prompts*", "llm.completions*", "llm.request.functions.*", "llm.content_completion*"),
    *("llm.chat.*", "llm.watsonx.*", "db.query.result.document", "db.query.result.metadata"),
    *("db.query.embeddings.vector", "db.query.result.vector", "vector_db.query*"),
    # OpenInference
    *("input.value", "output.value", "input.audio.*", "output.audio.*"),
    *("llm.input_messages*", "llm.output_messages*", "llm.choices*", "llm.prompt_template.*"),
    *("input.images*", "output.images*", "input.documents*", "output.documents*"),
    *("completion.text", "prompt.text", "document.name", "guard.explanation"),
    *("evaluation.explanation", "evaluation.metadata"),
    *("annotation.explanation", "annotation.metadata", "llm.function_call", "llm.tools*"),
    *("llm.invocation_parameters", "llm.prompt*"),
    *("embedding.embeddings*", "embedding.text", "embedding.vector", "embedding.invocation*"),
    *("retrieval.documents*", "reranker.query", "reranker.*_documents*", "document.content"),
    *("document.metadata", "tool.parameters", "tool.description", "tool.json_schema"),
    *("tool_call.function.arguments*", "message.content*", "message.function_call_*"),
    *("message.tool_calls*", "message_content.*", "image.image.url", "prompt_template.*"),
    # Langfuse, LangSmith, MLflow, Braintrust
    *("langfuse.*input", "langfuse.*output", "langfuse.*metadata*", "langfuse.*status_message"),
    *("langsmith.*inputs*", "langsmith.*outputs*", "langsmith.metadata*"),
    *("mlflow.spanInputs", "mlflow.spanOutputs", "mlflow.chat.*", "mlflow.trace*puts"),
    *("braintrust.input*", "braintrust.output*", "braintrust.expected*", "braintrust.metadata*"),
    # Logfire and Pydantic AI
    *("request_data", "response_data", "all_messages_events", "pydantic_ai.*", "final_result"),
    *("model_request_parameters", "events"),
    *("tool_arguments", "tool_response", "agent_input", "new_messages"),
    # Vercel AI SDK
    *("ai.prompt*", "ai.response.text", "ai.response.object", "ai.response.toolCalls"),
    *("ai.response.reasoning*", "ai.result.*", "ai.toolCall.args", "ai.toolCall.result"),
    *("ai.value*", "ai.embedding*", "ai.telemetry.metadata*"),
    # Haystack, CrewAI and AWS agents
    *("haystack.*input*", "haystack.*output*", "crew*.tasks*", "crew*.result", "crew*.inputs"),
    *("crew_agents", "crew_tasks", "formatted_*", "tool.result", "tool.output", "tool.input"),
    # HTTP bodies, and names that applications commonly choose themselves
    *("http.request.body*", "http.response.body*", "rpc.*.body"),
    *("prompt", "prompts", "completion", "completions", "messages", "system_prompt"),
    *("user_prompt", "system_instruction*", "input_messages", "output_messages"),
)
"""Attributes that hold prompts, completions, or arguments and results of tools."""

METADATA: Final = frozenset({"gen_ai.prompt.name", "gen_ai.prompt.version"})
"""Attributes that match `CONTENT` but do not hold content."""

LABELS: Final = frozenset(
    {
        *("type", "role", "id", "call_id", "tool_call_id", "file_id", "modality", "mime_type"),
        *("finish_reason", "index", "score", "truncated", "original_chars", "original_bytes"),
    }
)
"""Fields of messages that describe content without quoting it. They are not redacted."""

_NAME: Final = "name"
_LABEL: Final = re.compile(r"[\w./:+-]{0,128}")

# Without separators: `access_token`, `access-token` and `accessToken` are one name.
_SECRET_NAMES: Final = frozenset(
    name.replace("_", "")
    for name in (
        *("authorization", "proxy_authorization", "www_authenticate", "cookie", "set_cookie"),
        *("x_api_key", "api_key", "apikey", "x_goog_api_key", "x_auth_token", "auth_token"),
        *("ocp_apim_subscription_key", "x_amz_security_token", "x_functions_key"),
        *("access_token", "refresh_token", "id_token", "session_token", "bearer_token"),
        *("client_secret", "secret", "secret_key", "private_key", "secret_access_key"),
        *("aws_secret_access_key", "aws_session_token", "password", "passwd", "hash_key"),
        *("hf_token", "private_token", "passphrase", "jwt"),
    )
)
# Other names end so: `openai_api_key`, `db_password`.
_SECRET_ENDS: Final = (
    *("apikey", "secretkey", "privatekey", "clientsecret", "password", "passwd", "passphrase"),
    *("accesstoken", "refreshtoken", "authtoken", "bearertoken", "sessiontoken"),
)
# A header whose name ends like a secret parameter of a URL.
_SECRET_HEADER: Final = (
    rf"(?s)(?:http\.(?:request|response)\.header|rpc\..*metadata)\.(?i:.*{SECRET_PARAMETER})"
)
URLS: Final = frozenset(
    {
        *("url.full", "url.query", "url.fragment", "url.original", "http.url", "http.target"),
        *("http.request.header.referer", "http.response.header.location"),
        *("db.connection_string", "http.uri", "uri", "url"),
    }
)
"""Attributes of HTTP and database instrumentations that may hold a key or credentials in a URL."""

_HEADER_MAPS: Final = frozenset(
    {"gen_ai.headers", "llm.headers", "extra_headers", "default_headers"}
)

# An application may generate names without end.
_LIMIT: Final = Limit("attribute_names", 4096, "Names of attributes, with their kind")
_MAX_NAME_CHARS: Final = 256


class AttributeKind(Enum):
    """The kind of data that an attribute holds, derived from its name."""

    SECRET = "secret"
    KEY = "key"
    CONTENT = "content"
    LABEL = "label"
    ERROR_TEXT = "error text"
    STACK_TRACE = "stack trace"
    TEXT = "text"


_ERRORS: Final = {
    **dict.fromkeys(
        ("exception.message", "error.message", "otel.status_description", "error_message"),
        AttributeKind.ERROR_TEXT,
    ),
    **dict.fromkeys(
        ("exception.stacktrace", "error.stack", "stack_trace"), AttributeKind.STACK_TRACE
    ),
}


class NameClassifier:
    """Classifies attributes by name.

    Args:
        keys: Names of the option `redact_keys`.
        finds_content: Whether to find content. Otherwise its kind is `TEXT`, which saves the first
            span the compilation of all names.
    """

    def __init__(self, keys: Sequence[str] = (), *, finds_content: bool = True) -> None:
        self._keys = _any_of(keys, re.IGNORECASE) if keys else None
        self._finds_content = finds_content
        self._cache: dict[str, AttributeKind] = {}

    def kind(self, name: str) -> AttributeKind:
        """Return the kind of data that an attribute of this name holds."""
        known = self._cache.get(name)
        if known is None:
            known = self._classify(name)
            self._cache[name] = known
            _LIMIT.trim(self._cache)
        return known

    def nested_kind(self, path: str, name: str) -> AttributeKind:
        """Return the kind of a field in a map, by its own name or else by its whole path."""
        own = self.kind(name)
        if own is not AttributeKind.TEXT or not path or len(path) + len(name) >= _MAX_NAME_CHARS:
            return own
        whole = self.kind(f"{path}.{name}")
        return AttributeKind.TEXT if whole is AttributeKind.LABEL else whole

    def _classify(self, name: str) -> AttributeKind:
        if len(name) > _MAX_NAME_CHARS:
            # Too long for a name: some code used content as a key.
            return AttributeKind.SECRET
        if self._keys is not None and self._keys.fullmatch(name):
            return AttributeKind.KEY
        last = name.rpartition(".")[2]
        spelled = last.lower().replace("-", "").replace("_", "")
        if (
            name in _HEADER_MAPS
            or spelled in _SECRET_NAMES
            or spelled.endswith(_SECRET_ENDS)
            or (name.startswith(("http.", "rpc.")) and _secret_header().fullmatch(f"{name}="))
        ):
            return AttributeKind.SECRET
        by_name = _ERRORS.get(name)
        if by_name is not None:
            return by_name
        if not self._finds_content or name in METADATA or not _content().fullmatch(name):
            return AttributeKind.TEXT
        is_label = last in LABELS or (last == _NAME and ".message.name" not in name)
        return AttributeKind.LABEL if is_label and "." in name else AttributeKind.CONTENT


def is_label(value: object) -> bool:
    """Return whether a value can be a label: a number, or a short text without spaces."""
    return isinstance(value, (int, float)) or (
        isinstance(value, str) and _LABEL.fullmatch(value) is not None
    )


def is_content_event(name: str) -> bool:
    """Return whether an event of this name holds prompts or completions."""
    return name.startswith("gen_ai.")


def _any_of(globs: Iterable[str], flags: int = 0) -> re.Pattern[str]:
    """Return an expression whose full match is any of the names."""
    parts = [".*".join(map(re.escape, re.split(r"\*+", glob))) for glob in globs]
    return re.compile("|".join(parts), flags | re.DOTALL)


# Compiled on first use, because both would slow down the import.
@cache
def _secret_header() -> re.Pattern[str]:
    return re.compile(_SECRET_HEADER)


@cache
def _content() -> re.Pattern[str]:
    return _any_of(CONTENT)
