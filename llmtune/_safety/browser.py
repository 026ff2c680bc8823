"""Checks of a request's headers: which page it comes from, and whether a host is this machine."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def is_foreign_page(origin: str | None, host: str, fetch_site: str | None) -> bool:
    """Return whether a request comes from a web page of another site, by three of its headers.

    Browsers set them and pages cannot (https://developer.mozilla.org/docs/Web/HTTP/Headers/Sec-Fetch-Site); programs
    that are no browsers send no `Origin` and no `Sec-Fetch-Site`.
    """
    if fetch_site not in (None, "none", "same-origin"):
        return True
    if origin is None:
        return False
    try:
        return urlsplit(origin).netloc.lower() != host.lower()
    except ValueError:
        return True


def is_loopback(host: str) -> bool:
    """Return whether a host's name or address, without its port, is this machine itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_name(header: str) -> str:
    """Return the name or address in a Host header, without its port; "" where it holds none."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""
