"""The words of servers' error codes.

A server's code becomes `error.type`, also of metrics, only if all of its words are known. Any
other code may contain an identifier: of a user, an organization, a request or a deployment. It
would not be redacted, and it would create a time series for each value.
"""

from __future__ import annotations

import re
from typing import Final

from llamatelemetry._limits import Limit

_CODE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.\-]{1,63}")
_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")

# From the error codes and types of OpenAI, Anthropic, Azure, Google, AWS, Mistral, Groq, Cerebras,
# Moonshot, DashScope, OpenRouter, LiteLLM, llama.cpp, vLLM, SGLang, TGI and Ollama.
_WORDS: Final = frozenset(
    """
    a abort aborted above acceptable access account active address age ai all allocation
    allowed already an and api arg args argument arguments array arrearage at audio auth
    authentication authorization authorized backend background bad balance base base64 batch be
    below billing blocked body budget buffer busy by cache call cancel canceled cancelled
    capacity card chat chunk client closed code commit completion completions concurrency
    concurrent config configuration conflict connect connection content context conversation
    count country crashed credential credentials credits cuda current data deactivated deadline
    decimal decommissioned decryption denied deployment deprecated detected device disabled
    disconnected does domain down download draining duplicate embedding empty encryption engine
    entity eof error errors exceed exceeded exception exhausted exist exists expected expired
    expression external failed failure fatal field file filter finish flagged flex forbidden
    format found free function gateway generation generic global gone gpu grammar guardrail
    guardrails hard header host http id illegal image images implemented in inactive incomplete
    incorrect inference input inspection insufficient integer integrity internal interrupted
    invalid io ip is item job json key kv large length limit limited limiter limits load loaded
    loading locked long lora loss malformed many max maximum mcp media memory message messages
    method min minimum missing model models moderation must name network no not null number
    oauth object of on only oom operation option options organization other out output overload
    overloaded parameter parameters parse parsing path payload payment pending permission
    permissions plan policy pool precondition previous processing project prompt property
    provider proxy purchase queue quota range rate reached read ready reason recognized
    redirect refusal refused region rejected reply request requests required reset resource
    response responses responsible result retry route router run runtime safety schema search
    security server service session short shutdown signature size slow small sort started state
    status stop stopped stopping storage store stream streaming string submit subscription
    supported suspended syntax system template tenant terminated terms territory text thread
    throttled throttling throughput tier time timed timeout to token tokens too tool tools
    transcription type unable unauthenticated unauthorized unavailable unexpected unhealthy
    unknown unloaded unloading unprocessable unpurchased unreachable unrecognized unsupported
    unverified update upload upstream url usage use used user using validate validation value
    values vector verified version video violation voice was web window with worker wrong
    """.split()  # noqa: SIM905 - one word a line would be 300 lines
)


@Limit("error_codes", 256, "Error codes of servers").cached
def is_known_code(code: str) -> bool:
    """Return whether a server's code consists of known words: `rate_limit_exceeded`, `NotFound`."""
    return _CODE.fullmatch(code) is not None and all(
        word.lower() in _WORDS for word in _WORD.findall(code.replace("ase64", "ase"))
    )
