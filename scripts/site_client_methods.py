"""Griffe extension of the API reference: the generated methods of the llama.cpp clients.

A line such as `embed = _call(endpoints.embed)` creates a method from a function, with its parameters
and its docstring. Griffe reads the source without running it, and sees an attribute.
"""

from __future__ import annotations

import griffe

CLIENTS = "llama.client.clients"
ENDPOINTS = "llama.client.endpoints"


class ClientMethods(griffe.Extension):
    """Replaces these attributes by the methods that the lines create."""

    def on_package(self, *, pkg: griffe.Module, **_: object) -> None:
        """Replace the attributes of both clients, once all modules of the package are loaded."""
        if pkg.path != "llamatelemetry":
            return
        for client in pkg[CLIENTS].classes.values():
            for name, attribute in list(client.attributes.items()):
                if str(attribute.value).startswith(("_call(", "_call_async(")):
                    client.set_member(name, method(pkg[ENDPOINTS][name], attribute))


def method(endpoint: griffe.Function, attribute: griffe.Attribute) -> griffe.Function:
    """Return the method of a client for a function that returns an `Exchange[Result]`."""
    found = griffe.Function(
        attribute.name,
        parameters=griffe.Parameters(griffe.Parameter("self"), *endpoint.parameters),
        returns=endpoint.returns.slice,
        docstring=endpoint.docstring,
        lineno=attribute.lineno,
        endlineno=attribute.endlineno,
    )
    if str(attribute.value).startswith("_call_async("):
        found.labels.add("async")
    return found
