"""Which requests come from a web page of another site, and which hosts are this machine."""

from __future__ import annotations

import pytest

from llmtune._safety.browser import host_name, is_foreign_page, is_loopback

HOST = "127.0.0.1:8421"


@pytest.mark.parametrize(
    ("origin", "fetch_site", "foreign"),
    [
        (None, None, False),
        (None, "none", False),
        (f"http://{HOST}", "same-origin", False),
        (f"HTTP://{HOST}", None, False),
        (None, "same-site", True),
        (None, "cross-site", True),
        (None, "something new", True),
        (f"http://{HOST}", "cross-site", True),
        ("http://127.0.0.1:8422", None, True),
        ("http://localhost:8421", None, True),
        ("http://evil.example", None, True),
        ("null", None, True),
        ("", None, True),
        ("http://[", None, True),
    ],
)
def test_a_page_of_another_site_is_known_by_its_headers(
    origin: str | None, fetch_site: str | None, foreign: bool
) -> None:
    assert is_foreign_page(origin, HOST, fetch_site) is foreign


@pytest.mark.parametrize(
    ("header", "name", "loopback"),
    [
        ("127.0.0.1:80", "127.0.0.1", True),
        ("127.3.2.1", "127.3.2.1", True),
        ("localhost", "localhost", True),
        ("[::1]:80", "::1", True),
        ("evil.example:80", "evil.example", False),
        ("localhost.evil.example", "localhost.evil.example", False),
        ("0.0.0.0", "0.0.0.0", False),
        ("", "", False),
        ("[", "", False),
    ],
)
def test_a_host_is_this_machine_or_not(header: str, name: str, loopback: bool) -> None:
    assert host_name(header) == name
    assert is_loopback(host_name(header)) is loopback
