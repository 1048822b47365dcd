"""The account that uploads, and the upload of a graph in a child process with a time limit."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from llamatelemetry.graphistry._graphs import Graph, PlotEdge, PlotNode

_INSTALL: Final = "pip install 'llamatelemetry-core[graphistry]'"
_MAX_MESSAGE: Final = 200
_LONGEST_S: Final = 2_000_000  # `poll` takes milliseconds as a C int.


class NotUploadedError(Exception):
    """The graph was not uploaded. The message states why, without secrets."""


def upload(graph: Graph, account: Account, *, privacy: str, timeout_s: float) -> str:
    """Upload a graph and return its URL. Raises `NotUploadedError`."""
    job = {
        "account": account.registration(),
        "privacy": privacy,
        "name": f"llamatelemetry: {graph.title}",
        "nodes": [_node_row(node) for node in graph.nodes],
        "edges": [_edge_row(edge) for edge in graph.edges],
    }
    # Arrow rejects half of a surrogate pair, so it is replaced.
    text = json.dumps(job, ensure_ascii=False).encode(errors="replace").decode()
    result = _run_child(text, account.server, timeout_s)
    if "url" in result:
        return result["url"]
    raise NotUploadedError(account.without_secrets(_reason(result, account.server)))


def _run_child(text: str, server: str, timeout_s: float) -> dict[str, str]:
    # -P keeps the current directory off the child's path: a graphistry.py there must not shadow the
    # client.
    command = [sys.executable, "-P", "-m", "llamatelemetry.graphistry._upload"]
    try:
        process = subprocess.run(
            command,
            # Passed on stdin: other users can read arguments and variables of a process.
            input=text,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            timeout=min(timeout_s, _LONGEST_S),
            check=False,
            # Under opentelemetry-instrument the child would be instrumented as well.
            env={**os.environ, "OTEL_SDK_DISABLED": "true"},
        )
        return cast("dict[str, str]", json.loads(process.stdout))
    except subprocess.TimeoutExpired:
        raise NotUploadedError(f"{server} took longer than {timeout_s:g} s") from None
    except OSError as error:
        raise NotUploadedError(f"cannot start the upload process: {error}") from None
    except ValueError:
        raise NotUploadedError("the upload process ended without a result") from None


def _reason(result: dict[str, str], server: str) -> str:
    error_type, message = result["error"], result["message"] or result["error"]
    short = message if len(message) <= _MAX_MESSAGE else f"{message[:_MAX_MESSAGE]}…"
    if result["step"] == "start":
        return f"its client cannot be imported ({short}): {_INSTALL}"
    # Messages of requests, some of them passed on by the client.
    unreachable = r"Max retries exceeded|ConnectionError|Connection aborted"
    if re.search(unreachable, f"{error_type} {message}"):
        return f"cannot connect to {server}"
    if result["step"] == "login":
        return f"{server} rejected the login ({short})"
    return f"the upload to {server} failed ({short})"


def _node_row(node: PlotNode) -> dict[str, Any]:
    label = f"{node.kind} {node.name}" if node.kind not in node.name.lower() else node.name
    own = {"id": node.id, "kind": node.kind, "name": node.name, "label": label}
    return {**node.details, **own, "weight": float(node.weight)}


def _edge_row(edge: PlotEdge) -> dict[str, Any]:
    label = ", ".join([edge.kind, *(f"{name} {value}" for name, value in edge.details.items())])
    ends = {"source": edge.source, "target": edge.target, "kind": edge.kind}
    return {**edge.details, **ends, "label": label}


_DEFAULT_SERVER: Final = "hub.graphistry.com"
# A login needs one complete group. The first complete one is used.
_LOGINS: Final = (
    ("personal_key_id", "personal_key_secret"),
    ("username", "password"),
    ("token",),
)
_CREDENTIALS: Final = frozenset(name for group in _LOGINS for name in group)
_VARIABLES: Final = {
    "personal_key_id": "GRAPHISTRY_PERSONAL_KEY_ID",
    "personal_key_secret": "GRAPHISTRY_PERSONAL_KEY_SECRET",
    "username": "GRAPHISTRY_USERNAME",
    "password": "GRAPHISTRY_PASSWORD",
    "token": "GRAPHISTRY_API_TOKEN",
    "org_name": "GRAPHISTRY_ORG_NAME",
    "server": "GRAPHISTRY_HOSTNAME",
    "protocol": "GRAPHISTRY_PROTOCOL",
    "client_protocol_hostname": "GRAPHISTRY_CLIENT_PROTOCOL_HOSTNAME",
}
_SECRETS: Final = ("personal_key_secret", "password", "token")


@dataclass(frozen=True, slots=True)
class Account:
    """Arguments of the client's `register`."""

    personal_key_id: str | None = None
    personal_key_secret: str | None = field(default=None, repr=False)
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    org_name: str | None = None
    server: str = _DEFAULT_SERVER
    protocol: str = "https"
    client_protocol_hostname: str | None = None

    @property
    def login(self) -> dict[str, str]:
        """The first complete group of credentials; empty if there is none."""
        values = asdict(self)
        for names in _LOGINS:
            if all(values[name] for name in names):
                return {name: values[name] for name in names}
        return {}

    @property
    def problem(self) -> str:
        """Why no login is possible; empty if one is."""
        if self.login:
            return ""
        values = asdict(self)
        for names in _LOGINS:
            missing = [name for name in names if not values[name]]
            if len(missing) < len(names):
                present = next(name for name in names if values[name])
                return (
                    f"{missing[0]} must be set together with {present} ({_VARIABLES[missing[0]]})"
                )
        return (
            "no credentials are set (GRAPHISTRY_PERSONAL_KEY_ID and "
            "GRAPHISTRY_PERSONAL_KEY_SECRET, or arguments)"
        )

    def registration(self) -> dict[str, str]:
        """Return the arguments of `register`: one login, and the other values that are set."""
        rest = {name: value for name, value in asdict(self).items() if name not in _CREDENTIALS}
        return {**self.login, **{name: value for name, value in rest.items() if value is not None}}

    def without_secrets(self, text: str) -> str:
        """Return the text with masked secrets, for logs."""
        for secret in filter(None, (getattr(self, name) for name in _SECRETS)):
            text = text.replace(secret, "***")
        return text


def read_account(**arguments: str | None) -> Account:
    """Return the account of arguments and environment. Credentials come from only one of them."""
    values = {name: value for name, value in arguments.items() if value is not None}
    environment = _read_environment()
    if _CREDENTIALS.isdisjoint(values):
        return Account(**{**environment, **values})
    rest = {name: value for name, value in environment.items() if name not in _CREDENTIALS}
    account = Account(**{**rest, **values})
    if account.problem:
        raise ValueError(account.problem)
    return account


def _read_environment() -> dict[str, str]:
    """Read Graphistry's variables. No other function does."""
    found = {name: os.environ.get(variable, "").strip() for name, variable in _VARIABLES.items()}
    return {name: value for name, value in found.items() if value}
