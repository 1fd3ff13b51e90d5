"""Where a vendor's API is and with which key it is asked, as its owner wrote them."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field, replace

import httpx
from pydantic import SecretStr

from providers.errors import NotReady


@dataclass(frozen=True, slots=True)
class Address:
    """Where an API is; `url` holds no credentials, `login` is what an Authorization header says instead."""

    url: httpx.URL
    login: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, text: str, variable: str, provider: str) -> Address:
        """Read an address of the environment; NotReady names the variable that holds it."""
        try:
            url = httpx.URL(text.strip())
        except httpx.InvalidURL:
            url = httpx.URL()
        if url.scheme not in {"http", "https"} or not url.host or not 0 < (url.port or 80) < 65536:
            raise NotReady(f"{variable} is not an address; write it like http://host:port", provider)
        login = f"Basic {base64.b64encode(url.userinfo).decode()}" if url.userinfo else None
        return cls(url.copy_with(userinfo=b"", fragment=None), login)

    @property
    def endpoint(self) -> str:
        """The address as it may be shown."""
        return str(self.url.copy_with(query=None)).rstrip("/")

    @property
    def path(self) -> str:
        """The path without a slash at its end; "" when there is none."""
        return self.url.path.rstrip("/")

    def at(self, path: str) -> httpx.URL:
        """The URL of a path below the address."""
        return self.url.copy_with(path=self.path + path)

    def moved(self, path: str) -> Address:
        """The address with another path."""
        return replace(self, url=self.url.copy_with(path=path or "/"))


def key_of(secret: SecretStr | None, variable: str, provider: str) -> str | None:
    """Read a key; None when there is none, NotReady when it can be none."""
    key = secret.get_secret_value() if secret else ""
    if not key.strip():
        return None
    if not key.isascii() or not key.isprintable() or " " in key:
        raise NotReady(
            f"{variable} holds a blank, a line end or a letter that no key has; copy it again", provider
        )
    return key
