"""What a client measures of its GenAI calls, under the metric names of v1.41, the newest, or both.

An instrumentation holds one `ClientMetrics` and need not know which names are in force.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol, get_args

from llamatelemetry.otel.points import attribute_set, record_points
from llamatelemetry.semconv import metrics as specs
from llamatelemetry.semconv.attributes import (
    ERROR_TYPE,
    GEN_AI_TOKEN_MODALITY,
    GEN_AI_TOKEN_TYPE,
)
from llamatelemetry.semconv.operations import EMBEDDINGS, INFERENCE_OPERATIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from opentelemetry.metrics import Counter, Histogram, Meter
    from opentelemetry.util.types import AttributeValue

    from llamatelemetry.otel.points import AttributeSet, Point

    Attributes = Mapping[str, AttributeValue]

MetricNames = Literal["v1.41", "latest", "both"]

_INFERENCE: Final = INFERENCE_OPERATIONS - {EMBEDDINGS}

# The newest text wants the token histograms of failed calls too, with their error.type; a
# proposal wants them of successful calls only. Should it be merged, this is all there is to change.
_HISTOGRAMS_OF_FAILED_CALLS: Final = True


class TokenCounts(Protocol):
    """The tokens of a call. ``None`` is unknown; cached ones are input, reasoning is output."""

    input_tokens: int | None
    output_tokens: int | None
    cache_read_tokens: int | None
    cache_write_tokens: int | None
    reasoning_tokens: int | None
    text_input_tokens: int | None
    image_input_tokens: int | None
    audio_input_tokens: int | None
    text_output_tokens: int | None
    image_output_tokens: int | None
    audio_output_tokens: int | None
    text_cache_read_tokens: int | None
    image_cache_read_tokens: int | None
    audio_cache_read_tokens: int | None


@dataclass(slots=True, eq=False, repr=False)
class CallMeasurement:
    """One call, as far as token and duration metrics go.

    ``attributes`` are those of every metric of the call but ``error.type``, which only some
    carry. ``unknown`` is recorded of an inference where no count came: the newest conventions
    want a 0.
    """

    operation: str
    duration_s: float
    tokens: TokenCounts
    attributes: Attributes
    error_type: str | None = None
    unknown: int | None = 0

    def with_error(self) -> AttributeSet:
        """The attributes, with ``error.type`` when the call failed."""
        given = attribute_set(self.attributes)
        return given if self.error_type is None else given.plus(ERROR_TYPE, self.error_type)


class ClientMetrics(Protocol):
    """The instruments of one set of names, and the points that a call has in them."""

    def record_chunk_intervals(self, seconds: Sequence[float], attributes: Attributes) -> None:
        """Record the times between the chunks of a stream, a point for each."""
        ...

    def first_chunk_points(self, seconds: float, attributes: AttributeSet) -> list[Point]:
        """The seconds to a stream's first chunk."""
        ...

    def duration_points(self, call: CallMeasurement) -> list[Point]:
        """How long a call took."""
        ...

    def token_points(self, call: CallMeasurement) -> list[Point]:
        """The tokens of a call that has ended, well or badly."""
        ...


class V141Metrics:
    """The names of v1.41: one set for all operations, tokens told apart by ``gen_ai.token.type``."""

    def __init__(self, meter: Meter) -> None:
        self.token_usage = create_histogram(meter, specs.CLIENT_TOKEN_USAGE)
        self.operation_duration = create_histogram(meter, specs.CLIENT_OPERATION_DURATION)
        self.time_to_first_chunk = create_histogram(meter, specs.CLIENT_TIME_TO_FIRST_CHUNK)
        self.time_per_output_chunk = create_histogram(meter, specs.CLIENT_TIME_PER_OUTPUT_CHUNK)

    def record_chunk_intervals(self, seconds: Sequence[float], attributes: Attributes) -> None:
        """Record the times between the chunks of a stream."""
        record_points(self.time_per_output_chunk, seconds, attributes)

    def first_chunk_points(self, seconds: float, attributes: AttributeSet) -> list[Point]:
        """The seconds to a stream's first chunk."""
        return [(self.time_to_first_chunk, seconds, attributes)]

    def duration_points(self, call: CallMeasurement) -> list[Point]:
        """How long a call took."""
        return [(self.operation_duration, call.duration_s, call.with_error())]

    def token_points(self, call: CallMeasurement) -> list[Point]:
        """One point per known token count, marked ``input`` or ``output``."""
        given = attribute_set(call.attributes)
        return [
            (self.token_usage, count, given.plus(GEN_AI_TOKEN_TYPE, kind))
            for kind, count in (
                ("input", call.tokens.input_tokens),
                ("output", call.tokens.output_tokens),
            )
            if count is not None
        ]


class LatestMetrics:
    """The newest names: inference, embeddings and everything else apart, tokens as counters.

    Args:
        meter: where the instruments are made.
        other_operations: whether durations of operations that are neither inference nor
            embeddings are recorded; they have the name that v1.41 has for all.
    """

    def __init__(self, meter: Meter, *, other_operations: bool = True) -> None:
        self.inference_duration = create_histogram(meter, specs.INFERENCE_DURATION)
        self.embeddings_duration = create_histogram(meter, specs.EMBEDDINGS_DURATION)
        self.operation_duration = (
            create_histogram(meter, specs.CLIENT_OPERATION_DURATION) if other_operations else None
        )
        self.time_to_first_chunk = create_histogram(meter, specs.INFERENCE_TIME_TO_FIRST_CHUNK)
        self.time_per_output_chunk = create_histogram(meter, specs.INFERENCE_TIME_PER_OUTPUT_CHUNK)
        self.input_tokens = create_histogram(meter, specs.INFERENCE_INPUT_TOKENS)
        self.output_tokens = create_histogram(meter, specs.INFERENCE_OUTPUT_TOKENS)
        self.embeddings_input_tokens = create_histogram(meter, specs.EMBEDDINGS_INPUT_TOKENS)
        self.input_usage = _create_counter(meter, specs.USAGE_INPUT_TOKENS)
        self.output_usage = _create_counter(meter, specs.USAGE_OUTPUT_TOKENS)
        self.cache_read_usage = _create_counter(meter, specs.USAGE_CACHE_READ_TOKENS)
        self.cache_write_usage = _create_counter(meter, specs.USAGE_CACHE_WRITE_TOKENS)
        self.reasoning_usage = _create_counter(meter, specs.USAGE_REASONING_TOKENS)

    def record_chunk_intervals(self, seconds: Sequence[float], attributes: Attributes) -> None:
        """Record the times between the chunks of a stream."""
        record_points(self.time_per_output_chunk, seconds, attributes)

    def first_chunk_points(self, seconds: float, attributes: AttributeSet) -> list[Point]:
        """The seconds to a stream's first chunk."""
        return [(self.time_to_first_chunk, seconds, attributes)]

    def duration_points(self, call: CallMeasurement) -> list[Point]:
        """How long a call took, for the histogram of its kind of operation."""
        if call.operation in _INFERENCE:
            histogram = self.inference_duration
        elif call.operation == EMBEDDINGS:
            histogram = self.embeddings_duration
        else:
            histogram = self.operation_duration
        return [] if histogram is None else [(histogram, call.duration_s, call.with_error())]

    def token_points(self, call: CallMeasurement) -> list[Point]:
        """Usage and, per operation, its distribution.

        Every inference counts, failed ones included: where no usage came, the conventions
        want a 0 of unknown modality. Elsewhere an unknown count is no point.
        """
        tokens = call.tokens
        if call.operation == EMBEDDINGS:
            if tokens.input_tokens is None:
                return []
            attributes = attribute_set(call.attributes)
            return [(self.embeddings_input_tokens, tokens.input_tokens, attributes)]
        unknown = call.unknown if call.operation in _INFERENCE else None
        points = [*self._counted(call, unknown)]
        if call.error_type is None or _HISTOGRAMS_OF_FAILED_CALLS:
            attributes = call.with_error()
            for histogram, count in (
                (self.input_tokens, _or(tokens.input_tokens, unknown)),
                (self.output_tokens, _or(tokens.output_tokens, unknown)),
            ):
                if count is not None:
                    points.append((histogram, count, attributes))
        return points

    def _counted(self, call: CallMeasurement, unknown: int | None) -> Iterator[Point]:
        tokens, given = call.tokens, attribute_set(call.attributes)
        # A provider that reports usage but not this part of it has said nothing of the part.
        no_usage = tokens.input_tokens is None and tokens.output_tokens is None
        part = unknown if no_usage else None
        for counter, count, split in (
            (self.input_usage, _or(tokens.input_tokens, unknown), _input_split(tokens)),
            (self.output_usage, _or(tokens.output_tokens, unknown), _output_split(tokens)),
            (self.cache_read_usage, _or(tokens.cache_read_tokens, part), _cache_split(tokens)),
            (self.cache_write_usage, _or(tokens.cache_write_tokens, part), ()),
            (self.reasoning_usage, _or(tokens.reasoning_tokens, part), ()),
        ):
            if count is None:
                continue
            for modality, share in _shares(count, split):
                yield counter, share, given.plus(GEN_AI_TOKEN_MODALITY, modality)


class BothMetrics:
    """Both sets of names, so that dashboards can be moved from one to the other."""

    def __init__(self, meter: Meter) -> None:
        self.v1_41 = V141Metrics(meter)
        self.latest = LatestMetrics(meter, other_operations=False)

    def record_chunk_intervals(self, seconds: Sequence[float], attributes: Attributes) -> None:
        """Record the times between the chunks of a stream."""
        self.v1_41.record_chunk_intervals(seconds, attributes)
        self.latest.record_chunk_intervals(seconds, attributes)

    def first_chunk_points(self, seconds: float, attributes: AttributeSet) -> list[Point]:
        """The seconds to a stream's first chunk."""
        return [
            *self.v1_41.first_chunk_points(seconds, attributes),
            *self.latest.first_chunk_points(seconds, attributes),
        ]

    def duration_points(self, call: CallMeasurement) -> list[Point]:
        """How long a call took."""
        return [*self.v1_41.duration_points(call), *self.latest.duration_points(call)]

    def token_points(self, call: CallMeasurement) -> list[Point]:
        """The tokens of a call."""
        return [*self.v1_41.token_points(call), *self.latest.token_points(call)]


_BY_NAME: Final[Mapping[str, Callable[[Meter], ClientMetrics]]] = {
    "v1.41": V141Metrics,
    "latest": LatestMetrics,
    "both": BothMetrics,
}


def client_metrics(meter: Meter, names: str) -> ClientMetrics:
    """Make the instruments of one set of names.

    Raises:
        ValueError: there is no such set.
    """
    if names not in _BY_NAME:
        accepted = ", ".join(get_args(MetricNames))
        raise ValueError(f"names={names!r} is not accepted; expected one of {accepted}")
    return _BY_NAME[names](meter)


def create_histogram(meter: Meter, spec: specs.HistogramSpec) -> Histogram:
    """Make a histogram with the conventions' buckets."""
    return meter.create_histogram(
        spec.name,
        unit=spec.unit,
        description=spec.description,
        explicit_bucket_boundaries_advisory=list(spec.boundaries),
    )


def _create_counter(meter: Meter, spec: specs.CounterSpec) -> Counter:
    return meter.create_counter(spec.name, unit=spec.unit, description=spec.description)


def _or(count: int | None, otherwise: int | None) -> int | None:
    return otherwise if count is None else count


_Split = tuple[tuple[str, int | None], ...]


def _input_split(tokens: TokenCounts) -> _Split:
    return (
        ("text", tokens.text_input_tokens),
        ("image", tokens.image_input_tokens),
        ("audio", tokens.audio_input_tokens),
    )


def _output_split(tokens: TokenCounts) -> _Split:
    return (
        ("text", tokens.text_output_tokens),
        ("image", tokens.image_output_tokens),
        ("audio", tokens.audio_output_tokens),
    )


def _cache_split(tokens: TokenCounts) -> _Split:
    return (
        ("text", tokens.text_cache_read_tokens),
        ("image", tokens.image_cache_read_tokens),
        ("audio", tokens.audio_cache_read_tokens),
    )


def _shares(total: int, split: _Split) -> Iterator[tuple[str, int]]:
    """Divide a count by modality; what the provider has not told apart is ``unknown``."""
    known = [(modality, count) for modality, count in split if count]
    rest = total - sum(count for _, count in known)
    if rest < 0:  # it contradicts itself: only the total is billed
        known, rest = [], total
    yield from known
    if rest or not known:
        yield "unknown", rest
