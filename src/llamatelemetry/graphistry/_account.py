"""Graphistry account and server, from arguments or `GRAPHISTRY_*` variables."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

_DEFAULT_SERVER: Final = "hub.graphistry.com"
# A login needs one complete group. The first complete one is used.
_LOGINS: Final = (
    ("personal_key_id", "personal_key_secret"),
    ("username", "password"),
    ("token",),
)
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
        """First complete group of credentials; empty if there is none."""
        given = asdict(self)
        for names in _LOGINS:
            if all(given[name] for name in names):
                return {name: given[name] for name in names}
        return {}

    @property
    def problem(self) -> str:
        """Why no login is possible; empty if one is."""
        if self.login:
            return ""
        given = asdict(self)
        for names in _LOGINS:
            missing = [name for name in names if not given[name]]
            if len(missing) < len(names):
                there = next(name for name in names if given[name])
                return f"{missing[0]} must be set together with {there} ({_VARIABLES[missing[0]]})"
        return (
            "no credentials are set (GRAPHISTRY_PERSONAL_KEY_ID and "
            "GRAPHISTRY_PERSONAL_KEY_SECRET, or arguments)"
        )

    def registration(self) -> dict[str, str]:
        """Return the arguments of `register`: one login, and the known values."""
        rest = asdict(self)
        for names in _LOGINS:
            for name in names:
                del rest[name]
        return {**self.login, **{name: value for name, value in rest.items() if value is not None}}

    def without_secrets(self, text: str) -> str:
        """Mask secrets for logs."""
        for secret in filter(None, (getattr(self, name) for name in _SECRETS)):
            text = text.replace(secret, "***")
        return text


def account_from(**arguments: str | None) -> Account:
    """Combine arguments with the environment. Credentials come from one of them only.

    Raises:
        ValueError: The arguments contain an incomplete login.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    from_environment = _from_environment()
    credentials = _names_of_credentials()
    if credentials.isdisjoint(given):
        return Account(**{**from_environment, **given})
    rest = {name: value for name, value in from_environment.items() if name not in credentials}
    account = Account(**{**rest, **given})
    if account.problem:
        raise ValueError(account.problem)
    return account


def _from_environment() -> dict[str, str]:
    """Read Graphistry's variables. No other function does."""
    found = {name: os.environ.get(variable, "").strip() for name, variable in _VARIABLES.items()}
    return {name: value for name, value in found.items() if value}


def _names_of_credentials() -> frozenset[str]:
    names: Iterable[str] = (name for group in _LOGINS for name in group)
    return frozenset(names) & {each.name for each in fields(Account)}
