"""The work of a pipeline: one call of it, or one item pulled from its iterator."""

from __future__ import annotations

from contextvars import ContextVar
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.trace import SpanKind

from llamatelemetry.genai import Request, as_list, as_str, get_field, internal_errors
from llamatelemetry.semconv import attributes as names
from llamatelemetry.semconv.operations import EMBEDDINGS
from llamatelemetry_instrumentation_transformers._pipeline_content import inputs_reader
from llamatelemetry_instrumentation_transformers._recorded import Recorded
from llamatelemetry_instrumentation_transformers._tasks import read_request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llamatelemetry_instrumentation_transformers._patches import Owner

working: Final[ContextVar[Work | None]] = ContextVar(
    "llamatelemetry-transformers-work", default=None
)
"""Work of the pipeline that runs in this context."""


class Work:
    """One call of a pipeline, or one pull.

    A pull may be no work if it returns an item of a finished batch. Its call is started when the model
    runs, with the time at which the pull started.

    Args:
        owner: State of the instrumentor.
        pipeline: Pipeline that works.
        kwargs: Arguments of the pipeline.
    """

    def __init__(self, owner: Owner, pipeline: Any, kwargs: Mapping[str, Any]) -> None:
        self._owner = owner
        self._pipeline = pipeline
        self._kwargs = kwargs
        self._started_ns = perf_counter_ns()
        self._recorded: Recorded | None = None
        self._is_call = False
        self._forwarding = False

    @property
    def at_work(self) -> Recorded | None:
        """Recorder of the current work.

        During a pull, only the model's part: the caller's generator runs inside the pull, too.
        """
        return self._recorded if self._forwarding or self._is_call else None

    @property
    def tokenizer(self) -> Any:
        """Tokenizer of the pipeline, if any."""
        return getattr(self._pipeline, "tokenizer", None)

    @property
    def recorded(self) -> Recorded | None:
        """Recorder; `None` if no call was started."""
        return self._recorded

    def is_of(self, pipeline: Any) -> bool:
        """Return whether this is the work of `pipeline`."""
        return pipeline is self._pipeline

    def open(self, inputs: Any) -> None:
        """Start the call with the inputs of the pipeline."""
        self._is_call = True
        self._open(inputs)

    def _open(self, inputs: Any) -> None:
        try:
            request = read_request(self._pipeline, inputs, self._kwargs)
            request.read_content = inputs_reader(self._pipeline, inputs, self._kwargs)
            self._start(request)
        except Exception as error:
            internal_errors.log_once("starting a call of a pipeline", error)

    def _start(self, request: Request) -> None:
        call = self._owner.instrumenter.start(
            request, SpanKind.INTERNAL, started_ns=self._started_ns
        )
        if call is not None:
            self._recorded = Recorded(self._owner, call, self._pipeline.model)

    def forward(
        self, wrapped: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """Run the pipeline's `forward`: the model works on one input or a batch."""
        inputs = args[0] if args else kwargs.get("model_inputs")
        if self._recorded is None and not self._is_call:
            self._open(_Prepared(inputs))
        recorded = self._recorded
        if recorded is None:
            return wrapped(*args, **kwargs)
        tokens = _token_tensors(inputs)
        generations = len(recorded.generations)
        # During a whole call, it is already current.
        context = None if self._is_call else recorded.call.activate()
        self._forwarding = True
        try:
            outputs = wrapped(*args, **kwargs)
        finally:
            self._forwarding = False
            if context is not None:
                recorded.call.deactivate(context)
        if len(recorded.generations) == generations:
            self._count(recorded, tokens, outputs)
        return outputs

    def _count(self, recorded: Recorded, tokens: Any, outputs: Any) -> None:
        try:
            if tokens is not None:
                recorded.input_tokens += [int(count) for count in tokens.sum(-1).tolist()]
            if recorded.call.request.operation == EMBEDDINGS:
                first = next(iter(outputs.values())) if hasattr(outputs, "values") else outputs[0]
                recorded.attributes[names.GEN_AI_EMBEDDINGS_DIMENSION_COUNT] = first.shape[-1]
        except Exception as error:
            internal_errors.log_once("counting the tokens of a pipeline", error)

    def finish(self, result: Any) -> None:
        """Finish the call. `result` is what the caller receives."""
        recorded = self._recorded
        if recorded is None:
            return
        try:
            if recorded.wants_content:
                recorded.texts = _texts(result)
        except Exception as error:
            internal_errors.log_once("reading the result of a pipeline", error)
        recorded.finish()

    def fail(self, error: BaseException) -> None:
        """Fail the call."""
        if self._recorded is not None:
            self._recorded.fail(error)


class _Prepared:
    """Inputs of a pull as `preprocess` returned them, for one item or a batch."""

    def __init__(self, inputs: Any) -> None:
        prompt = inputs.get("prompt_text") if hasattr(inputs, "get") else None
        self.token_ids = inputs.get("input_ids") if hasattr(inputs, "get") else None
        self.messages = getattr(_first(prompt), "messages", None)


def _first(value: Any) -> Any:
    several = as_list(value)
    return several[0] if several else value


def _token_tensors(inputs: Any) -> Any:
    """Return the tensors to count tokens with. `forward` may remove them from the inputs."""
    if not hasattr(inputs, "get"):
        return None
    mask, tokens = inputs.get("attention_mask"), inputs.get("input_ids")
    if tokens is None or getattr(tokens, "ndim", 0) != 2:
        return None  # masks of sound and images count frames
    return tokens.new_ones(tokens.shape) if mask is None or mask.ndim != 2 else mask


def _texts(result: Any) -> list[str]:
    """Return the texts of a result that was not generated: transcript, answer or summary."""
    found = [as_str(get_field(result, name)) for name in ("text", "answer")]
    found += [each for item in as_list(result) for each in _texts(item)]
    return [each for each in found if each is not None]
