"""`GraphistryViz`: to a server when there is an account, else into a file; never an error of the net."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from llamatelemetry.graphistry import _client, _graphs, _page
from llamatelemetry.graphistry._account import account_from
from llamatelemetry.otel.trace_graph.graph import find_graph

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamatelemetry.graphistry._graphs import Graph
    from llamatelemetry.otel.trace_graph.graph import TraceGraph

Privacy = Literal["private", "organization", "public"]

_logger = logging.getLogger("llamatelemetry.graphistry")
_NOT_REGISTERED: Final = "register() was not called"


class GraphistryViz:
    """Draws graphs: uploaded to a Graphistry server, or as a page that needs no network.

    Each ``plot_`` method returns the address of the uploaded graph, or the path of the page; what
    kept it from the server is one line in the log. Names and figures are drawn, never prompts.

    Args:
        auto_register: use the credentials, from arguments or the environment, right away. Without
            any nothing is uploaded, and nothing is if this is False until `register`.
        personal_key_id: with ``personal_key_secret``, else ``GRAPHISTRY_PERSONAL_KEY_ID`` and
            ``_SECRET``.
        personal_key_secret: see there.
        username: with ``password``, else ``GRAPHISTRY_USERNAME`` and ``GRAPHISTRY_PASSWORD``.
        password: see there.
        token: a JWT of the server, else ``GRAPHISTRY_API_TOKEN``.
        org_name: the organisation to upload for, else ``GRAPHISTRY_ORG_NAME``.
        server: host, or host and port, else ``GRAPHISTRY_HOSTNAME``, else hub.graphistry.com.
        protocol: ``https`` or ``http``, else ``GRAPHISTRY_PROTOCOL``, else ``https``.
        privacy: who may see an uploaded graph: only this account, its organisation, or everybody
            who has the address.
        timeout_s: for all of an upload, the start of the client included.
        output_dir: where pages are written.

    Raises:
        ValueError: half of a login, an unknown ``privacy`` or ``protocol``, no time at all.
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
            raise ValueError(f"timeout_s is {timeout_s!r}; give a number of seconds above 0")
        self._account = account_from(
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
        self._wanted = auto_register

    @property
    def registered(self) -> bool:
        """Whether graphs go to the server. Whether it takes them shows at the first one."""
        return self._wanted and not self._account.problem

    def register(self) -> bool:
        """Upload from now on; False when there is nothing to log in with."""
        self._wanted = True
        return self.registered

    def plot_pipeline_graph(
        self,
        model_name: str,
        backend: str,
        gpu_names: Sequence[str] = (),
        tensor_split: Sequence[float] | None = None,
        server_url: str | None = None,
    ) -> str:
        """Draw how a model is served: program, model, server, and its part on each GPU.

        Args:
            model_name: of a path only the file's name is drawn.
            backend: such as ``llama.cpp``.
            gpu_names: one per GPU, in the order of ``tensor_split``.
            tensor_split: proportions of the model on each GPU, such as ``(3, 1)``.
            server_url: only its host and port are drawn.

        Returns:
            The URL of the uploaded graph, or the path of the page.

        Raises:
            ValueError: ``tensor_split`` does not fit the GPUs.
            OSError: the page cannot be written.
        """
        return self._show(
            _graphs.pipeline_graph(model_name, backend, gpu_names, tensor_split, server_url)
        )

    def plot_trace_graph(self, trace: TraceGraph | int | str) -> str:
        """Draw what really ran.

        Args:
            trace: what ``llamatelemetry.trace_graph()`` gives; or the id of one of the last traces,
                as a number or in hex, in a process with ``enable_trace_graphs``.

        Returns:
            The URL of the uploaded graph, or the path of the page.

        Raises:
            TypeError: ``trace`` is neither.
            KeyError: the trace is not among the last ones.
            RuntimeError: no trace graphs are kept.
            OSError: the page cannot be written.
        """
        found = find_graph(trace) if isinstance(trace, int | str) else trace
        return self._show(_graphs.trace_graph(found))

    def plot_topology(self, topology: Any) -> str:
        """Draw the GPUs of a machine and the links between them.

        Args:
            topology: what ``llamatelemetry.distributed.TopologyMapper().detect()`` gives.

        Returns:
            The URL of the uploaded graph, or the path of the page.

        Raises:
            TypeError: it is something else.
            OSError: the page cannot be written.
        """
        return self._show(_graphs.topology_graph(topology))

    def _show(self, graph: Graph) -> str:
        reason, level = self._why_not(graph), logging.INFO
        if not reason:
            try:
                return _client.upload(
                    graph, self._account, privacy=self._privacy, timeout_s=self._timeout_s
                )
            except _client.NotUploadedError as error:
                reason, level = str(error), logging.WARNING
        path = _page.write_page(graph, self._output_dir)
        _logger.log(level, "Not uploaded to Graphistry: %s. The graph is in %s", reason, path)
        return str(path)

    def _why_not(self, graph: Graph) -> str:
        """What keeps a graph here without trying; none of it is anybody's fault."""
        if not self._wanted:
            return _NOT_REGISTERED
        if self._account.problem:
            return self._account.problem
        if not graph.edges:
            return graph.note or "there is nothing between its nodes"
        return ""


def _check_one_of(name: str, value: object, allowed: Sequence[object]) -> None:
    if value not in allowed:
        known = ", ".join(repr(each) for each in allowed if each is not None)
        raise ValueError(f"{name} is {value!r}; it can be {known}")
