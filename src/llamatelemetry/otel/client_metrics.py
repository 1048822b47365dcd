"""Client metrics of GenAI calls, under the metric names of v1.41, the newest names, or both.

An instrumentation holds one `ClientMetrics` and does not depend on the names in use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol, cast, get_args

from llamatelemetry.semconv import metrics as specs
from llamatelemetry.semconv.attributes import (
    ERROR_TYPE,
    GEN_AI_TOKEN_MODALITY,
    GEN_AI_TOKEN_TYPE,
)
from llamatelemetry.semconv.operations import EMBEDDINGS, INFERENCE_OPERATIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from opentelemetry.context import Context
    from opentelemetry.metrics import Counter, Histogram, Meter
    from opentelemetry.util.types import AttributeValue

    Attributes = Mapping[str, AttributeValue]
    Measurement = tuple[Counter | Histogram, float, Attributes]
    Write = Callable[[float, Attributes, Context | None], None]

MetricNames = Literal["v1.41", "latest", "both"]

_INFERENCE: Final = INFERENCE_OPERATIONS - {EMBEDDINGS}

# The newest text of the conventions also wants the token histograms of failed calls, with their
# error.type. A proposal wants them of successful calls only; it would change this constant alone.
_HISTOGRAMS_OF_FAILED_CALLS: Final = True


class TokenCounts(Protocol):
    """Token counts of a call.

    `None` is unknown. Cached tokens are part of the input, reasoning tokens of the output.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    text_input_tokens: int | None = None
    image_input_tokens: int | None = None
    audio_input_tokens: int | None = None
    text_output_tokens: int | None = None
    image_output_tokens: int | None = None
    audio_output_tokens: int | None = None
    text_cache_read_tokens: int | None = None
    image_cache_read_tokens: int | None = None
    audio_cache_read_tokens: int | None = None


@dataclass(slots=True, eq=False, repr=False)
class CallMeasurement:
    """Duration and token counts of one call.

    Attributes:
        attributes: Attributes of every metric of the call, without `error.type`.
        error_type: Value of `error.type`, which only some metrics carry.
        unknown: Value recorded for an inference without a token count. The newest conventions
            want a 0; `None` records nothing.
    """

    operation: str
    duration_s: float
    tokens: TokenCounts
    attributes: Attributes
    error_type: str | None = None
    unknown: int | None = 0

    def with_error(self) -> Attributes:
        """Return the attributes, with `error.type` if the call failed."""
        if self.error_type is None:
            return self.attributes
        return {**self.attributes, ERROR_TYPE: self.error_type}


class ClientMetrics:
    """The instruments of one set of metric names, and the measurements of a call for them.

    `chunk_histograms` record the seconds between two chunks of a stream.
    """

    def __init__(self, time_to_first_chunk: Histogram, *chunk_intervals: Histogram) -> None:
        self.time_to_first_chunk = time_to_first_chunk
        self.chunk_histograms = chunk_intervals

    def first_chunk_measurements(self, seconds: float, attributes: Attributes) -> list[Measurement]:
        """Return the measurements of the time to a stream's first chunk."""
        return [(self.time_to_first_chunk, seconds, attributes)]

    def duration_measurements(self, call: CallMeasurement) -> list[Measurement]:
        """Return the measurements of a call's duration."""
        raise NotImplementedError

    def token_measurements(self, call: CallMeasurement) -> list[Measurement]:
        """Return the measurements of a call's token counts."""
        raise NotImplementedError


class V141Metrics(ClientMetrics):
    """Metric names of v1.41: one set for all operations, tokens split by `gen_ai.token.type`."""

    def __init__(self, meter: Meter) -> None:
        self.token_usage = create_histogram(meter, specs.CLIENT_TOKEN_USAGE)
        self.operation_duration = create_histogram(meter, specs.CLIENT_OPERATION_DURATION)
        super().__init__(
            create_histogram(meter, specs.CLIENT_TIME_TO_FIRST_CHUNK),
            create_histogram(meter, specs.CLIENT_TIME_PER_OUTPUT_CHUNK),
        )

    def duration_measurements(self, call: CallMeasurement) -> list[Measurement]:
        """Return the measurements of a call's duration."""
        return [(self.operation_duration, call.duration_s, call.with_error())]

    def token_measurements(self, call: CallMeasurement) -> list[Measurement]:
        """Return one measurement per known token count, of type `input` or `output`."""
        return [
            (self.token_usage, count, {**call.attributes, GEN_AI_TOKEN_TYPE: kind})
            for kind, count in (
                ("input", call.tokens.input_tokens),
                ("output", call.tokens.output_tokens),
            )
            if count is not None
        ]


class LatestMetrics(ClientMetrics):
    """Newest metric names: separate ones for inference and embeddings, tokens as counters.

    With `other_operations`, the duration of all other operations is recorded under the name that
    v1.41 has for every operation.
    """

    def __init__(self, meter: Meter, *, other_operations: bool = True) -> None:
        self.inference_duration = create_histogram(meter, specs.INFERENCE_DURATION)
        self.embeddings_duration = create_histogram(meter, specs.EMBEDDINGS_DURATION)
        self.operation_duration = (
            create_histogram(meter, specs.CLIENT_OPERATION_DURATION) if other_operations else None
        )
        self.input_tokens = create_histogram(meter, specs.INFERENCE_INPUT_TOKENS)
        self.output_tokens = create_histogram(meter, specs.INFERENCE_OUTPUT_TOKENS)
        self.embeddings_input_tokens = create_histogram(meter, specs.EMBEDDINGS_INPUT_TOKENS)
        self.input_usage = _create_counter(meter, specs.USAGE_INPUT_TOKENS)
        self.output_usage = _create_counter(meter, specs.USAGE_OUTPUT_TOKENS)
        self.cache_read_usage = _create_counter(meter, specs.USAGE_CACHE_READ_TOKENS)
        self.cache_write_usage = _create_counter(meter, specs.USAGE_CACHE_WRITE_TOKENS)
        self.reasoning_usage = _create_counter(meter, specs.USAGE_REASONING_TOKENS)
        super().__init__(
            create_histogram(meter, specs.INFERENCE_TIME_TO_FIRST_CHUNK),
            create_histogram(meter, specs.INFERENCE_TIME_PER_OUTPUT_CHUNK),
        )

    def duration_measurements(self, call: CallMeasurement) -> list[Measurement]:
        """Return the measurement of a call's duration, in the histogram of its operation."""
        if call.operation in _INFERENCE:
            histogram = self.inference_duration
        elif call.operation == EMBEDDINGS:
            histogram = self.embeddings_duration
        else:
            histogram = self.operation_duration
        return [] if histogram is None else [(histogram, call.duration_s, call.with_error())]

    def token_measurements(self, call: CallMeasurement) -> list[Measurement]:
        """Return the measurements of usage and, per operation, of its distribution.

        They include failed inferences. For an inference without usage, the conventions want a
        0 of unknown modality. Other operations without a count have no measurement.
        """
        tokens = call.tokens
        if call.operation == EMBEDDINGS:
            if tokens.input_tokens is None:
                return []
            return [(self.embeddings_input_tokens, tokens.input_tokens, call.attributes)]
        unknown = call.unknown if call.operation in _INFERENCE else None
        found = [*self._usage(call, unknown)]
        if call.error_type is None or _HISTOGRAMS_OF_FAILED_CALLS:
            attributes = call.with_error()
            for histogram, count in (
                (self.input_tokens, _or(tokens.input_tokens, unknown)),
                (self.output_tokens, _or(tokens.output_tokens, unknown)),
            ):
                if count is not None:
                    found.append((histogram, count, attributes))
        return found

    def _usage(self, call: CallMeasurement, unknown: int | None) -> Iterator[Measurement]:
        tokens = call.tokens
        # If a provider reports usage without this part, the part is unknown and not 0.
        no_usage = tokens.input_tokens is None and tokens.output_tokens is None
        part = unknown if no_usage else None
        for counter, count, split in (
            (self.input_usage, _or(tokens.input_tokens, unknown), _INPUT),
            (self.output_usage, _or(tokens.output_tokens, unknown), _OUTPUT),
            (self.cache_read_usage, _or(tokens.cache_read_tokens, part), _CACHE_READ),
            (self.cache_write_usage, _or(tokens.cache_write_tokens, part), ()),
            (self.reasoning_usage, _or(tokens.reasoning_tokens, part), ()),
        ):
            if count is None:
                continue
            for modality, share in _shares(count, [(m, getattr(tokens, f)) for m, f in split]):
                yield counter, share, {**call.attributes, GEN_AI_TOKEN_MODALITY: modality}


class BothMetrics(ClientMetrics):
    """Both sets of metric names, for moving dashboards from one to the other."""

    def __init__(self, meter: Meter) -> None:
        self._v1_41 = V141Metrics(meter)
        self._latest = LatestMetrics(meter, other_operations=False)
        self.chunk_histograms = self._v1_41.chunk_histograms + self._latest.chunk_histograms

    def first_chunk_measurements(self, seconds: float, attributes: Attributes) -> list[Measurement]:
        """Return the measurements under both names."""
        return [
            *self._v1_41.first_chunk_measurements(seconds, attributes),
            *self._latest.first_chunk_measurements(seconds, attributes),
        ]

    def duration_measurements(self, call: CallMeasurement) -> list[Measurement]:
        """Return the measurements under both names."""
        return [*self._v1_41.duration_measurements(call), *self._latest.duration_measurements(call)]

    def token_measurements(self, call: CallMeasurement) -> list[Measurement]:
        """Return the measurements under both names."""
        return [*self._v1_41.token_measurements(call), *self._latest.token_measurements(call)]


_BY_NAME: Final[Mapping[str, Callable[[Meter], ClientMetrics]]] = {
    "v1.41": V141Metrics,
    "latest": LatestMetrics,
    "both": BothMetrics,
}


def client_metrics(meter: Meter, names: str) -> ClientMetrics:
    """Create the instruments of one set of metric names.

    Raises:
        ValueError: The names are unknown.
    """
    if names not in _BY_NAME:
        accepted = ", ".join(get_args(MetricNames))
        raise ValueError(f"names must be one of {accepted}, got {names!r}")
    return _BY_NAME[names](meter)


def create_histogram(meter: Meter, spec: specs.HistogramSpec) -> Histogram:
    """Create a histogram with the buckets of the conventions."""
    return meter.create_histogram(
        spec.name,
        unit=spec.unit,
        description=spec.description,
        explicit_bucket_boundaries_advisory=list(spec.boundaries),
    )


def write_of(instrument: Counter | Histogram) -> Write:
    """Return the method that records a measurement: `record` or `add`."""
    write: Write | None = getattr(instrument, "record", None)
    return cast("Counter", instrument).add if write is None else write


def record_measurements(
    measurements: Iterable[Measurement], context: Context | None = None
) -> None:
    """Record measurements now, with exemplars of the span in `context`, by default the current."""
    for instrument, value, attributes in measurements:
        write_of(instrument)(value, attributes, context)


def _create_counter(meter: Meter, spec: specs.CounterSpec) -> Counter:
    return meter.create_counter(spec.name, unit=spec.unit, description=spec.description)


def _or(count: int | None, otherwise: int | None) -> int | None:
    return otherwise if count is None else count


# Modalities of a token count, and the fields of `TokenCounts` with their shares.
_INPUT, _OUTPUT, _CACHE_READ = (
    tuple((modality, f"{modality}_{part}_tokens") for modality in ("text", "image", "audio"))
    for part in ("input", "output", "cache_read")
)


def _shares(total: int, split: list[tuple[str, int | None]]) -> Iterator[tuple[str, int]]:
    """Split a count by modality. The part without a modality is `unknown`."""
    known = [(modality, count) for modality, count in split if count]
    rest = total - sum(count for _, count in known)
    if rest < 0:  # The report contradicts itself, and only the total is billed.
        known, rest = [], total
    yield from known
    if rest or not known:
        yield "unknown", rest
