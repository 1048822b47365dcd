"""Bodies of 2xx responses that are errors, in the forms of several servers."""

from __future__ import annotations

from typing import Any

# By server: the JSON body and the expected `error.type`.
REPORTED_ERRORS: dict[str, tuple[Any, str]] = {
    "OpenRouter": (
        {"error": {"code": 502, "message": "swordfish", "metadata": {}}, "user_id": "u"},
        "502",
    ),
    "OpenRouter, code as text": (
        {"error": {"code": "server_error", "message": "swordfish"}},
        "server_error",
    ),
    "OpenRouter, in a choice": (
        {
            "id": "g",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "error",
                    "error": {"code": 502, "message": "swordfish"},
                    "message": {"role": "assistant", "content": ""},
                }
            ],
        },
        "502",
    ),
    "llama.cpp": (
        {"error": {"code": 400, "message": "swordfish", "type": "invalid_request_error"}},
        "invalid_request_error",
    ),
    "LM Studio": ({"error": "Unexpected endpoint, swordfish"}, "_OTHER"),
    "Text Generation Inference": (
        {"error": "swordfish", "error_type": "overloaded"},
        "overloaded",
    ),
    "vLLM": (
        {"object": "error", "message": "swordfish", "type": "BadRequestError", "code": 400},
        "BadRequestError",
    ),
    "MiniMax": (
        {"choices": None, "base_resp": {"status_code": 1004, "status_msg": "swordfish"}},
        "1004",
    ),
    "Qianfan": ({"error_code": 336003, "error_msg": "swordfish"}, "336003"),
    "Zhipu": ({"code": 500, "msg": "swordfish", "success": False}, "500"),
    "Cloudflare": (
        {"success": False, "errors": [{"code": 10000, "message": "swordfish"}], "result": None},
        "10000",
    ),
}
NOT_ERRORS: list[Any] = [
    None,
    [],
    {},
    "error",
    {"error": None},
    {"error": ""},
    {"success": True, "errors": []},
    {"base_resp": {"status_code": 0}},
    {"error_code": 0},
    {"error_code": "0"},
    {"object": "list"},
]
