"""The child process that uploads a graph with Graphistry's client.

Run as `python -m llamatelemetry.graphistry._upload`, with a JSON object on stdin and another on stdout.
A process of its own is used because the client has no time limit, prints and logs errors, and shares
its organization among all sessions of a process. Its dependencies, pandas and Arrow, would stay in the
application's memory.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import uuid
from typing import Any, Final
from urllib.parse import urlencode

from llamatelemetry.graphistry._graphs import COLORS

_ICONS: Final = {
    "service": "cube",
    "pipeline": "random",
    "agent": "user",
    "stage": "step-forward",
    "tool": "wrench",
    "model": "cogs",
    "server": "server",
    "slot": "columns",
    "gpu": "microchip",
    "nic": "plug",
}


def main() -> None:
    """Upload the graph from stdin and print the result on stdout: `url`, or `step` and `error`."""
    result = os.dup(1)
    # The client prints to stdout, which must contain only the result.
    os.dup2(2, 1)
    job = json.load(sys.stdin)
    with os.fdopen(result, "w", encoding="utf-8") as out:
        json.dump(_run_job(job), out)


def _run_job(job: dict[str, Any]) -> dict[str, str]:
    step = "start"
    try:
        graphistry: Any = importlib.import_module("graphistry")
        pandas: Any = importlib.import_module("pandas")
        step = "login"
        client = graphistry.client().register(api=3, **job["account"])
        step = "upload"
        graph = _plotter(client, pandas, job)
        return {"url": _upload(client, graph, job["privacy"])}
    except Exception as error:
        # After any error, the caller writes a page instead.
        return {"step": step, "error": type(error).__name__, "message": _first_line(error)}


def _plotter(client: Any, pandas: Any, job: dict[str, Any]) -> Any:
    nodes, edges = pandas.DataFrame(job["nodes"]), pandas.DataFrame(job["edges"])
    return (
        client.nodes(nodes, "id")
        .edges(edges, "source", "target")
        .bind(point_title="label", edge_title="label")
        .encode_point_color("kind", categorical_mapping=COLORS, default_mapping="#9aa5b5")
        .encode_point_icon("kind", categorical_mapping=_ICONS, default_mapping="circle")
        .encode_point_size("weight")
        .name(job["name"])
    )


def _upload(client: Any, graph: Any, privacy: str) -> str:
    """Create the dataset, then set who may see it, and then upload the data.

    The client's own order is to upload the data first. Until the visibility is set, and forever if
    that fails, the server's default applies: anyone with the URL can see the graph.
    """
    uploader = graph.plot(skip_upload=True)
    uploader.token = client.api_token()
    uploader.create_dataset(
        {
            "node_encodings": uploader.node_encodings,
            "edge_encodings": uploader.edge_encodings,
            "metadata": uploader.metadata,
            "name": uploader.name,
            "description": uploader.description,
        }
    )
    uploader.post_share_link(uploader.dataset_id, "dataset", {"mode": privacy})
    uploader.post_edges_arrow()
    uploader.post_nodes_arrow()
    return _url(client, uploader.dataset_id)


def _url(client: Any, dataset_id: str) -> str:
    base = client.session.client_protocol_hostname
    if base is None:
        base = f"{client.protocol()}://{client.server()}"
    parameters = {"dataset": dataset_id, "type": "arrow", "viztoken": str(uuid.uuid4())}
    return f"{base}/graph/graph.html?{urlencode(parameters)}"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else ""


if __name__ == "__main__":
    main()
