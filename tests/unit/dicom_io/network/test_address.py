"""Addresses as they are written, and what may be said of one that a server points to."""

from __future__ import annotations

import pytest

from dicom_io.network.address import address, redirection


@pytest.mark.parametrize(("host", "written"), [("pacs", "pacs:104"), ("::1", "[::1]:104")])
def test_an_ipv6_address_stands_in_brackets(host: str, written: str) -> None:
    assert address(host, 104) == written


@pytest.mark.parametrize(
    ("location", "place"),
    [
        ("https://login.example.org/sso?token=s3cret#x", "https://login.example.org"),
        ("https://user:s3cret@login.example.org:8443/", "https://login.example.org:8443"),
        ("http://[::1]:80/s3cret", "http://[::1]:80"),
        ("http://[::1]/s3cret", "http://[::1]"),
        ("//login.example.org/s3cret", "login.example.org"),
        ("/login?token=s3cret", "another path"),
        ("", "no address"),
        ("http://[s3cret", "an address that cannot be read"),
        ("http://h:s3cret/", "an address that cannot be read"),
        ("http://h\x1b[31ms3cret/", "an address that cannot be read"),
        ("s3cret://host/", "an address that cannot be read"),
        ("http://" + "s3cret" * 100 + "/", "an address that cannot be read"),
    ],
)
def test_of_a_redirect_only_the_host_is_named(location: str, place: str) -> None:
    words = redirection(302, location)
    assert words == f"redirects to {place} (HTTP status 302), where nothing is sent"
    assert "s3cret" not in words
