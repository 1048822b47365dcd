"""Upload of a graph in a child process with a time limit."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from llamatelemetry.graphistry._account import Account
    from llamatelemetry.graphistry._graphs import Edge, Graph, Node

_INSTALL: Final = "pip install 'llamatelemetry-core[graphistry]'"
_MAX_MESSAGE: Final = 200


class NotUploadedError(Exception):
    """The graph was not uploaded. The message states why, without secrets."""


def upload(graph: Graph, account: Account, *, privacy: str, timeout_s: float) -> str:
    """Upload a graph and return its URL.

    Raises:
        NotUploadedError: The upload failed.
    """
    asked = {
        "account": account.registration(),
        "privacy": privacy,
        "name": f"llamatelemetry: {graph.title}",
        "nodes": [_node_row(node) for node in graph.nodes],
        "edges": [_edge_row(edge) for edge in graph.edges],
    }
    answer = _asked(json.dumps(asked), account.server, timeout_s)
    if "url" in answer:
        return answer["url"]
    raise NotUploadedError(account.without_secrets(_reason(answer, account.server)))


def _asked(text: str, server: str, timeout_s: float) -> dict[str, str]:
    # -P keeps the current directory off the child's path: a graphistry.py there must not shadow the
    # client.
    command = [sys.executable, "-P", "-m", "llamatelemetry.graphistry._upload"]
    try:
        done = subprocess.run(
            command,
            # Passed on stdin: other users can read arguments and variables of a process.
            input=text,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            timeout=timeout_s,
            check=False,
            # Under opentelemetry-instrument the child would be instrumented as well.
            env={**os.environ, "OTEL_SDK_DISABLED": "true"},
        )
        return cast("dict[str, str]", json.loads(done.stdout))
    except subprocess.TimeoutExpired:
        raise NotUploadedError(f"{server} took longer than {timeout_s:g} s") from None
    except OSError as error:
        raise NotUploadedError(f"cannot start the upload process: {error}") from None
    except ValueError:
        raise NotUploadedError("the upload process died") from None


def _reason(answer: dict[str, str], server: str) -> str:
    kind, message = answer["error"], answer["message"] or answer["error"]
    short = message if len(message) <= _MAX_MESSAGE else f"{message[:_MAX_MESSAGE]}…"
    if answer["step"] == "start":
        return f"its client cannot be imported ({short}): {_INSTALL}"
    # Errors of requests, and those that the client derives from them.
    if re.search(r"Max retries exceeded|ConnectionError|Connection aborted", f"{kind} {message}"):
        return f"there is no connection to {server}"
    if answer["step"] == "login":
        return f"{server} refused the login ({short})"
    return f"the upload to {server} failed ({short})"


def _node_row(node: Node) -> dict[str, Any]:
    label = f"{node.kind} {node.name}" if node.kind not in node.name.lower() else node.name
    own = {"id": node.id, "kind": node.kind, "name": node.name, "label": label}
    return {**node.details, **own, "weight": float(node.weight)}


def _edge_row(edge: Edge) -> dict[str, Any]:
    label = ", ".join([edge.kind, *(f"{name} {value}" for name, value in edge.details.items())])
    ends = {"source": edge.source, "target": edge.target, "kind": edge.kind}
    return {**edge.details, **ends, "label": label}
