"""Headers of Hugging Face's Text Generation Inference and Text Embeddings Inference.

Both report the queue. Neither reports prefill or decode: `x-inference-time` contains both, and
`x-time-per-token` is that time divided by all tokens. Sources: `router/src/server.rs` of TGI 3.3 and
`router/src/lib.rs` of TEI.
"""

from __future__ import annotations

from typing import Any

from llamatelemetry.genai.engines.units import MILLISECOND, text_as_ms
from llamatelemetry.genai.model import EngineTimings


def read_hugging_face_headers(headers: Any) -> EngineTimings | None:
    """Read the queue time, in whole milliseconds. Streams have no such header."""
    queue_ms = text_as_ms(headers.get("x-queue-time"), MILLISECOND)
    return None if queue_ms is None else EngineTimings(queue_ms=queue_ms)
