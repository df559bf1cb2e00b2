"""Which addresses a stranger's URI may lead to."""

import socket
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address

Resolver = Callable[[str], Sequence[Address]]

_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
_REFUSED = (
    # Some Python versions know only a part of this range as private; clouds keep services in the rest.
    IPv4Network("192.0.0.0/24"),
    # Azure's machines reach their host at this public address.
    IPv4Network("168.63.129.16/32"),
)

_LOCAL_DOMAINS = (".localhost", ".local", ".internal", ".home.arpa")
"""Reserved for this machine or this network (RFC 6761, RFC 6762, ICANN, RFC 8375); clouds have their metadata there."""


def lookup(host: str) -> list[Address]:
    """The addresses of a host, as the system resolves it. Raises OSError or UnicodeError when it has none.

    Numbers are addresses in all the forms that C knows (`127.1`, `0x7f000001`, `2130706433`), with a dot at the end as
    well, whatever the system's resolver makes of them.
    """
    try:
        return [IPv4Address(socket.inet_aton(host.removesuffix(".")))]
    except OSError:
        pass
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [ip_address(str(entry[4][0])) for entry in found]


def is_local_name(host: str) -> bool:
    """Whether a host's name says by itself that it is not of the public internet, whatever it leads to here: it has a
    reserved domain, or is an address with a zone, which is one of this machine's links."""
    return "%" in host or f".{host.lower().removesuffix('.')}".endswith(_LOCAL_DOMAINS)


def is_public(address: Address) -> bool:
    """Whether an address belongs to the public internet, and with it any IPv4 address that it wraps."""
    if isinstance(address, IPv4Address):
        return (
            address.is_global
            and not address.is_multicast
            and not address.is_reserved
            and not any(address in network for network in _REFUSED)
        )
    if wrapped := _wrapped(address):
        return all(is_public(inner) for inner in wrapped)
    return address in _GLOBAL_UNICAST and address.is_global


def _wrapped(address: IPv6Address) -> tuple[IPv4Address, ...]:
    """The IPv4 addresses to which a gateway or the system would turn this IPv6 address."""
    if address in _NAT64:
        return (IPv4Address(int(address) & 0xFFFF_FFFF),)
    if address.teredo:
        return address.teredo
    inner = address.ipv4_mapped or address.sixtofour
    return (inner,) if inner else ()
