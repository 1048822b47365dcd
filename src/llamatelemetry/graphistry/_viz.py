"""`GraphistryViz`: uploads graphs if there is an account, and otherwise writes pages."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from llamatelemetry.graphistry import _client, _graphs, _page
from llamatelemetry.graphistry._client import read_account
from llamatelemetry.otel.trace_graph.graph import find_graph

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamatelemetry.graphistry._graphs import Graph
    from llamatelemetry.otel.trace_graph.graph import TraceGraph

Privacy = Literal["private", "organization", "public"]

_logger = logging.getLogger("llamatelemetry.graphistry")
_NOT_REGISTERED: Final = "register() was not called"


class GraphistryViz:
    """Draws graphs: uploaded to a Graphistry server, or as an HTML page that needs no network.

    Each `plot_` method returns the URL of the uploaded graph, or the path of the page and logs why
    the graph was not uploaded. Names and statistics are drawn, never prompts.

    Args:
        auto_register: Whether to use the credentials from arguments or environment now. Without
            credentials, or with `False` until `register`, nothing is uploaded.
        personal_key_id: Key id; `GRAPHISTRY_PERSONAL_KEY_ID` by default. Needs `personal_key_secret`.
        personal_key_secret: Key secret; `GRAPHISTRY_PERSONAL_KEY_SECRET` by default.
        username: User name; `GRAPHISTRY_USERNAME` by default. Needs `password`.
        password: Password; `GRAPHISTRY_PASSWORD` by default.
        token: JWT of the server; `GRAPHISTRY_API_TOKEN` by default.
        org_name: Organization; `GRAPHISTRY_ORG_NAME` by default.
        server: Host, or host and port; `GRAPHISTRY_HOSTNAME` by default, else hub.graphistry.com.
        protocol: `https` or `http`; `GRAPHISTRY_PROTOCOL` by default, else `https`.
        privacy: Who may see an uploaded graph: this account, its organization, or anyone with the URL.
        timeout_s: Time limit of an upload, including the start of the client, in seconds.
        output_dir: Directory for pages.

    Raises:
        ValueError: The login is incomplete, or `privacy`, `protocol` or `timeout_s` is invalid.

    Examples:
        >>> import llamatelemetry
        >>> from llamatelemetry.distributed import TopologyMapper
        >>> from llamatelemetry.graphistry import GraphistryViz
        >>> config = llamatelemetry.init("shop", exporter="none", enable_trace_graphs=True)
        >>> @llamatelemetry.workflow
        ... def answer():
        ...     return "42"
        >>> text = answer()
        >>> viz = GraphistryViz(auto_register=False, output_dir="graphs")
        >>> viz.plot_trace_graph(llamatelemetry.trace_graph())
        'graphs/...html'
        >>> path = viz.plot_topology(TopologyMapper().detect())
        >>> path = viz.plot_pipeline_graph("model.gguf", "llama.cpp", ["T4", "T4"], tensor_split=(3, 1))
        >>> viz.register()  # There are no credentials.
        False
    """

    def __init__(
        self,
        auto_register: bool = True,
        *,
        personal_key_id: str | None = None,
        personal_key_secret: str | None = None,
        username: str | None = None,
        password: str | None = None,
        token: str | None = None,
        org_name: str | None = None,
        server: str | None = None,
        protocol: Literal["https", "http"] | None = None,
        privacy: Privacy = "private",
        timeout_s: float = 60.0,
        output_dir: Path | str = "llamatelemetry-data",
    ) -> None:
        _check_one_of("privacy", privacy, get_args(Privacy))
        _check_one_of("protocol", protocol, (None, "https", "http"))
        if not timeout_s > 0:
            raise ValueError(f"timeout_s must be greater than 0, got {timeout_s!r}")
        self._account = read_account(
            personal_key_id=personal_key_id,
            personal_key_secret=personal_key_secret,
            username=username,
            password=password,
            token=token,
            org_name=org_name,
            server=server,
            protocol=protocol,
        )
        self._privacy = privacy
        self._timeout_s = timeout_s
        self._output_dir = Path(output_dir)
        self._is_registered = auto_register

    @property
    def registered(self) -> bool:
        """Whether graphs are uploaded. The first upload shows whether the server accepts them."""
        return self._is_registered and not self._account.problem

    def register(self) -> bool:
        """Upload from now on. Return whether there are credentials."""
        self._is_registered = True
        return self.registered

    def plot_pipeline_graph(
        self,
        model_name: str,
        backend: str,
        gpu_names: Sequence[str] = (),
        tensor_split: Sequence[float] | None = None,
        server_url: str | None = None,
    ) -> str:
        """Draw how a model is served: program, model, server, and its share on each GPU.

        Args:
            model_name: Model name; of a path, only the file name is drawn.
            backend: Backend, such as `llama.cpp`.
            gpu_names: One name per GPU, in the order of `tensor_split`.
            tensor_split: Proportions of the model on each GPU, such as `(3, 1)`.
            server_url: URL of the server; only host and port are drawn.

        Returns:
            URL of the uploaded graph, or path of the page.

        Raises:
            ValueError: `tensor_split` does not match the GPUs, or `server_url` is invalid.
            OSError: The page cannot be written.
        """
        return self._show(
            _graphs.pipeline_graph(model_name, backend, gpu_names, tensor_split, server_url)
        )

    def plot_trace_graph(self, trace: TraceGraph | int | str) -> str:
        """Draw a trace graph.

        Args:
            trace: Result of `llamatelemetry.trace_graph()`; or the id of a recent trace, as a number or in
                hex, in a process with `enable_trace_graphs`.

        Returns:
            URL of the uploaded graph, or path of the page.

        Raises:
            TypeError: `trace` is neither.
            KeyError: The trace is not among the recent ones.
            RuntimeError: Trace graphs are not enabled.
            OSError: The page cannot be written.
        """
        found = find_graph(trace) if isinstance(trace, int | str) else trace
        return self._show(_graphs.trace_graph(found))

    def plot_topology(self, topology: Any) -> str:
        """Draw the GPUs of a machine and their connections.

        Args:
            topology: Result of `llamatelemetry.distributed.TopologyMapper().detect()`.

        Returns:
            URL of the uploaded graph, or path of the page.

        Raises:
            TypeError: `topology` is something else.
            OSError: The page cannot be written.
        """
        return self._show(_graphs.topology_graph(topology))

    def _show(self, graph: Graph) -> str:
        reason, level = self._skip_reason(graph), logging.INFO
        if not reason:
            try:
                return _client.upload(
                    graph, self._account, privacy=self._privacy, timeout_s=self._timeout_s
                )
            except _client.NotUploadedError as error:
                reason, level = str(error), logging.WARNING
        path = _page.write_page(graph, self._output_dir)
        _logger.log(
            level, "Cannot upload the graph to Graphistry: %s. Saved it to %s", reason, path
        )
        return str(path)

    def _skip_reason(self, graph: Graph) -> str:
        """Return why an upload is not attempted; empty if it is."""
        if not self._is_registered:
            return _NOT_REGISTERED
        if self._account.problem:
            return self._account.problem
        if not graph.edges:
            return graph.note or "the graph has no edges"
        return ""


def _check_one_of(name: str, value: object, allowed: Sequence[object]) -> None:
    if value not in allowed:
        known = ", ".join(repr(each) for each in allowed if each is not None)
        raise ValueError(f"{name} must be {known}, got {value!r}")
