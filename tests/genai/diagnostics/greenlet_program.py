"""A program whose greenlets call a server on this machine, recorded with diagnostics.

python -m tests.genai.diagnostics.greenlet_program ORIGIN
"""

import gevent.monkey

gevent.monkey.patch_all()

import json  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402
import openai  # noqa: E402

from llamatelemetry.config import LlamaTelemetryConfig  # noqa: E402
from llamatelemetry.genai import stop_finalizer  # noqa: E402
from llamatelemetry_instrumentation_openai import OpenAIInstrumentor  # noqa: E402
from tests.support.recorder import Recorder  # noqa: E402

CALLS = 4


def main() -> None:
    recorder = Recorder()
    config = LlamaTelemetryConfig(diagnostics=True)
    OpenAIInstrumentor().instrument(**recorder.providers, config=config)
    client = openai.OpenAI(base_url=f"{sys.argv[1]}/v1", api_key="none")
    messages: list[Any] = [{"role": "user", "content": "Hi"}]

    def call() -> None:
        for _ in range(CALLS):
            client.chat.completions.create(model="m", messages=messages)
            time.sleep(0.1)

    gevent.joinall([gevent.spawn(call) for _ in range(2)], raise_error=True)
    names = [sorted(span.attributes or {}) for span in recorder.calls()]
    sys.stdout.write(json.dumps({"names": names, "stopped": stop_finalizer(10)}))


if __name__ == "__main__":
    main()
