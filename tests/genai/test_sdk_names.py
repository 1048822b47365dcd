"""Complete recording of calls with an SDK that has different private names."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from opentelemetry.sdk import metrics as sdk_metrics

from tests.genai.meters import run_program

# Private names of the SDK's span and metric modules that faster recording could use.
PRIVATE_NAMES = (
    *("_Histogram", "_Counter", "_Span", "_ViewInstrumentMatch", "_measurement_consumer"),
    *("_sdk_config", "_reader_storages", "_get_or_init_view_instrument_match", "_is_enabled"),
    *("_hash_attributes", "_attributes_aggregation", "_get_or_create_aggregation"),
    *("_ExplicitBucketHistogramAggregation", "_boundaries", "_record_min_max", "_reservoir"),
    *("_sample_exemplar", "_get_empty_bucket_counts", "_end_time", "_attribute_keys"),
)


def test_spans_and_metrics_are_complete_when_private_sdk_names_change(tmp_path):
    renamed = tmp_path / "opentelemetry" / "sdk"
    shutil.copytree(Path(sdk_metrics.__file__).parents[1], renamed)
    pattern = re.compile(rf"\b({'|'.join(PRIVATE_NAMES)})\b")
    for part in ("metrics", "trace"):
        for path in (renamed / part).rglob("*.py"):
            path.write_text(pattern.sub(r"\1_renamed", path.read_text()))
    program = """
        import json
        from opentelemetry.sdk import metrics
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        from llamatelemetry.genai import EngineTimings, Instrumenter, Request, Response, Usage
        from llamatelemetry.otel.gen_ai_metrics import GenAIMetrics

        exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
        tracer_provider = TracerProvider()
        tracer_provider.add_span_processor(SimpleSpanProcessor(exporter))
        plugin = Instrumenter(
            "test", "1", tracer_provider=tracer_provider, meter_provider=MeterProvider([reader])
        )
        for _ in range(3):
            call = plugin.start(Request("chat", "openai", "smol", stream=True))
            call.start_attempt()
            call.record_chunk_intervals([0.1, 0.2], call.chunk_attributes("smol"))
            timings = EngineTimings(7, 20.0, 5, 40.0, is_queue_derivable=True)
            call.finish(Response("id", "smol", ("stop",), usage=Usage(21, 5), timings=timings))
        (scope,) = reader.get_metrics_data().resource_metrics[0].scope_metrics
        counts = {m.name: [p.count for p in m.data.data_points] for m in scope.metrics}
        spans = [sorted(span.attributes) for span in exporter.get_finished_spans()]
        print(json.dumps([metrics.__file__, counts, spans], sort_keys=True))
    """
    _, counts, spans = json.loads(run_program(program))
    assert counts["gen_ai.client.operation.time_per_output_chunk"] == [6]
    assert counts["gen_ai.client.token.usage"] == [3, 3]
    assert len(spans) == 3 * 4  # Each with queue, prefill and decode.
    assert sum("gen_ai.response.id" in names for names in spans) == 3
    path, *others = json.loads(run_program(program, PYTHONPATH=str(tmp_path)))
    assert Path(path).parents[1] == renamed
    assert others == [counts, spans]
