"""A scripted server or router, over a loopback server."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from llamatelemetry.server_metrics.reader import ServerReader
from llamatelemetry.server_metrics.target import parse_target
from tests.support.loopback_server import Loopback, ReceivedRequest, ScriptedResponse


@dataclass
class ScriptedModel:
    """One model of a scripted server."""

    name: str
    counters: dict[str, float] = field(default_factory=lambda: {"prompt_tokens_total": 7.0})
    process_start: str = "1"
    sleeping: bool = False
    status: str = "loaded"
    props_sleeping: bool = True
    """Whether `/props` reports that the model is asleep."""
    slots: list[dict[str, Any]] = field(
        default_factory=lambda: [{"n_ctx": 512, "is_processing": False, "n_prompt_tokens": 5}]
    )

    def respond(self, path: str) -> ScriptedResponse:
        if path == "/props":
            asleep = self.sleeping and self.props_sleeping
            return ScriptedResponse(body={"model_alias": self.name, "is_sleeping": asleep})
        if path == "/slots":
            return ScriptedResponse(body=self.slots)
        if path == "/metrics":
            lines = [f"llamacpp:{name} {value:g}" for name, value in self.counters.items()]
            process_start = (
                {"Process-Start-Time-Unix": self.process_start} if self.process_start else {}
            )
            return ScriptedResponse(body="\n".join(lines).encode() + b"\n", headers=process_start)
        return ScriptedResponse(404, {"error": {"code": 404}})


class Scripted:
    """A server with one model, or a router with several."""

    def __init__(self, *models: ScriptedModel, router: bool = False) -> None:
        self.models = {model.name: model for model in models}
        self.router = router
        self.fault: ScriptedResponse | None = None
        self.required: str | None = None
        """The `Authorization` header without which all requests get status 401."""
        self.loopback: Loopback

    def respond(self, asked: ReceivedRequest) -> ScriptedResponse:
        is_authorized = self.required in (None, asked.headers.get("authorization"))
        if self.fault is not None or not is_authorized:
            return self.fault or ScriptedResponse(401)
        url = urlsplit(asked.path)
        query = parse_qs(url.query)
        if not self.router:
            return next(iter(self.models.values())).respond(url.path)
        if "model" in query:
            if query.get("autoload") != ["false"]:
                raise AssertionError(f"{asked.path} would load a model")
            model = self.models[query["model"][0]]
            if model.status not in ("loaded", "sleeping"):
                return ScriptedResponse(400, {"error": {"message": "model is not loaded"}})
            return model.respond(url.path)
        if url.path == "/props":
            return ScriptedResponse(
                body={"role": "router", "model_alias": "none", "is_sleeping": False}
            )
        assert url.path == "/models", asked.path
        listed = [{"id": m.name, "status": {"value": m.status}} for m in self.models.values()]
        return ScriptedResponse(body={"data": listed})

    @property
    def paths(self) -> list[str]:
        return [asked.path for asked in self.loopback.asked]

    def reader(self, url: str = "", api_key: str | None = None) -> ServerReader:
        return ServerReader(parse_target(url or f"{self.loopback.url}/metrics", api_key))
