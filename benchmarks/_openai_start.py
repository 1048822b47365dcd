"""CPU time of importing and instrumenting in a new process, for one contender of `compare_openai.py`.

OpenTelemetry's API, SDK and instrumentation base are imported before the clock starts. Prints the
CPU time of the process in milliseconds, and whether `openai` has been imported.
"""

from __future__ import annotations

import sys
import time

import opentelemetry.instrumentation.instrumentor
import opentelemetry.metrics
import opentelemetry.propagate
import opentelemetry.sdk.metrics.export
import opentelemetry.sdk.trace.export
import opentelemetry.trace  # noqa: F401 - imported for their side effects
import wrapt  # noqa: F401


def main() -> None:
    """Import and instrument, then print the results."""
    started = time.process_time_ns()
    if sys.argv[1] == "llamatelemetry":
        from llamatelemetry_instrumentation_openai import OpenAIInstrumentor

        OpenAIInstrumentor().instrument()
    elif sys.argv[1] == "official":
        from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor as Official

        Official().instrument()
    else:
        from openinference.instrumentation.openai import OpenAIInstrumentor as OpenInference

        OpenInference().instrument()
    took_ms = (time.process_time_ns() - started) / 1e6
    print(took_ms, "openai" in sys.modules)


if __name__ == "__main__":
    main()
