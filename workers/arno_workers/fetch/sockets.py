"""Sockets that a slow server cannot keep busy, connected only to addresses that were checked."""

import socket
import ssl
import time
from typing import Any

from arno_shared.errors import ConnectionFailed, ForbiddenAddress, InvalidUri, Timeout
from arno_workers.fetch.addresses import Address, Resolver, is_local_name, is_public


class _Deadline(socket.socket):
    """A socket whose timeout counts from when it is set, over all that is received, and not anew for each packet."""

    _ends_at: float | None = None

    def settimeout(self, value: float | None) -> None:
        self._ends_at = None if value is None else time.monotonic() + value
        super().settimeout(value)

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        if self._ends_at is not None:
            remaining_s = self._ends_at - time.monotonic()
            if remaining_s <= 0:
                raise TimeoutError("the time is up")
            super().settimeout(remaining_s)
        return super().recv_into(*args, **kwargs)


class _TlsDeadline(_Deadline, ssl.SSLSocket):
    pass


def tls_context() -> ssl.SSLContext:
    """The system's certificates and checks, on sockets that keep to their deadline."""
    context = ssl.create_default_context()
    context.sslsocket_class = _TlsDeadline
    return context


class Connector:
    """Opens connections to public addresses only; to any address with `private_addresses`."""

    def __init__(self, private_addresses: bool, resolve: Resolver) -> None:
        self._private_addresses = private_addresses
        self._resolve = resolve

    def connect(self, host: str, port: int, timeout_s: float) -> socket.socket:
        """A socket to `host`, whose name is resolved once: what is checked is what is connected to.

        The name's resolution takes as long as the system's resolver allows; `timeout_s` is for the rest.
        Raises ForbiddenAddress when any of the addresses is, ConnectionFailed, Timeout, InvalidUri.
        """
        addresses = self._addresses(host)
        ends_at = time.monotonic() + timeout_s
        failure: OSError | None = None
        for address in addresses:
            remaining_s = ends_at - time.monotonic()
            if remaining_s <= 0:
                break
            try:
                return _open(address, port, remaining_s)
            except OSError as error:
                failure = error
        if failure is None or isinstance(failure, TimeoutError):
            raise Timeout(f"{host} did not accept a connection within {timeout_s:.3g} s")
        raise ConnectionFailed(f"{host} cannot be connected to: {failure.strerror or failure}")

    def _addresses(self, host: str) -> list[Address]:
        # Not even asked for: whether such a name exists is nobody else's business.
        if not self._private_addresses and is_local_name(host):
            raise _forbidden(host)
        try:
            addresses = list(dict.fromkeys(self._resolve(host)))
        except UnicodeError:
            raise InvalidUri(f"not a host's name: {host[:200]!r}") from None
        except OSError as error:
            raise ConnectionFailed(f"the host {host[:200]!r} cannot be found: {error.strerror}") from error
        if not addresses:
            raise ConnectionFailed(f"the host {host[:200]!r} has no address")
        if not self._private_addresses and not all(map(is_public, addresses)):
            # All of them: a name with a public and a private address would get through on some tries.
            raise _forbidden(host)
        return addresses


def _forbidden(host: str) -> ForbiddenAddress:
    return ForbiddenAddress(
        f"{host[:200]} leads to an address that is not public. "
        "To allow such addresses: ARNO_LIMITS__PRIVATE_ADDRESSES=true"
    )


def _open(address: Address, port: int, timeout_s: float) -> socket.socket:
    opened = _Deadline(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_STREAM)
    try:
        opened.settimeout(timeout_s)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.connect((str(address), port))
    except BaseException:
        opened.close()
        raise
    return opened
