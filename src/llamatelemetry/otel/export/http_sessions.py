"""Connections of the OTLP exporters over HTTP: a forked child opens its own.

An exporter keeps its connection open, and a fork shares it. The requests of both processes would
then interleave on it, and the collector would discard them as malformed.
"""

from __future__ import annotations

import copy
import os
from typing import TYPE_CHECKING, Any, Final, cast
from weakref import WeakSet

if TYPE_CHECKING:
    import requests

_sessions: Final[WeakSet[requests.Session]] = WeakSet()
# Closing a parent's connection takes locks that a thread of the parent may have held at the fork.
_inherited: Final[list[object]] = []


def new_session() -> requests.Session:
    """Return a session whose connections are not shared with forked children."""
    import requests

    session = requests.Session()
    follow_forks(session)
    return session


def follow_forks(session: requests.Session) -> None:
    """Replace the connections of a session in each forked child."""
    _sessions.add(session)


def _replace_connections(session: requests.Session) -> None:
    for prefix, adapter in tuple(session.adapters.items()):
        _inherited.append(adapter)
        session.mount(prefix, _without_connections(adapter))


def _without_connections(adapter: Any) -> Any:
    """Return a copy of an adapter, which has its settings but no connections."""
    try:
        copied = copy.copy(adapter)
    except Exception:
        # An application's adapter that cannot be copied. It opens new connections after this.
        adapter.close()
        return adapter
    settings, kept = cast("dict[str, Any]", vars(adapter)), cast("dict[str, Any]", vars(copied))
    kept.update({name: settings[name] for name in settings.keys() - kept.keys()})
    return copied


def _after_fork_in_child() -> None:
    for session in tuple(_sessions):
        _replace_connections(session)


# Windows has no fork.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
