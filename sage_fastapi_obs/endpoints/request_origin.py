"""Which page has sent a request, as browsers say in headers that no script can set."""

from starlette.datastructures import Headers

_SAME_SITE = frozenset({"same-origin", "none"})
"""`Sec-Fetch-Site` of a request that a page of this very origin has sent, or a person by typing the address."""


def is_from_the_page(headers: Headers) -> bool:
    """Tell whether a browser says that a page of this very origin has sent a request.

    A proxy may change `Host`, but not `Sec-Fetch-Site`, which browsers send to encrypted and local addresses only.
    """
    site = headers.getlist("sec-fetch-site")
    return site == ["same-origin"] if site else _is_own(headers, headers.getlist("origin"))


def is_from_another_site(headers: Headers) -> bool:
    """Tell whether a browser says that a page of another origin has sent a request; programs say nothing."""
    site, origins = headers.getlist("sec-fetch-site"), headers.getlist("origin")
    return not _SAME_SITE.issuperset(site) if site else bool(origins) and not _is_own(headers, origins)


def _is_own(headers: Headers, origins: list[str]) -> bool:
    hosts = [host.lower() for host in headers.getlist("host")]
    return len(hosts) == 1 and [origin.partition("://")[2].lower() for origin in origins] == hosts
