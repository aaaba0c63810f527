"""Fetches a video from the web into a temporary file, within limits of time, size and, on request, place.

The file is then read like any other. A decoder that fetches by itself would follow every redirect and every address
that a playlist names, and wait for a server that never ends.
"""

import contextlib
import http.client
import ipaddress
import socket
import tempfile
import threading
import time
import urllib.request
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urljoin, urlsplit

from transformers.utils import logging

SCHEMES = ("http", "https")
MAX_BYTES = 2 * 2**30
ANSWER_SECONDS = 20.0  # to connect, to answer, and from one piece to the next
SLOWEST = 1024  # bytes per second, on the mean of `ANSWER_SECONDS`
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_LONGEST_NUMBER = 18  # digits
_PIECE = 1 << 18  # bytes
_RESERVED = "%/:=&?~+!$,;'@()*[]"  # in the path and query of an address that is quoted already


def is_url(source: object) -> bool:
    """Whether this is an http or https address."""
    return isinstance(source, str) and source.lower().startswith(tuple(f"{scheme}://" for scheme in SCHEMES))


def name_of_url(url: str) -> str:
    """The name of the file at an address, without suffix; the host where it has none."""
    parts = urlsplit(url)
    return Path(unquote(parts.path)).stem or parts.hostname or url


def download(
    url: str,
    report: Callable[[str], None] = lambda problem: None,
    public_only: bool = False,
    max_bytes: int = MAX_BYTES,
) -> BinaryIO:
    """
    The content of an http(s) address in a temporary file, which goes away when it is closed.

    Args:
        url: the address. Redirects are followed, to http(s) only.
        report: called with what is wrong with a file that can be used nevertheless.
        public_only: refuse addresses inside of this machine's networks, also behind names and redirects.
        max_bytes: largest file.

    Returns:
        A named temporary file, at its start. A transfer that breaks off gives what came before, and is reported.

    Raises:
        OSError: when it can't be fetched: refused, not found, too large, too slow, not public; the message says which.
    """
    handlers = [_Redirects(), _Connections(public_only)]
    if public_only:
        handlers.append(urllib.request.ProxyHandler({}))  # a proxy would hide where the address leads
    try:
        request = _request(url)
        with urllib.request.build_opener(*handlers).open(request, timeout=ANSWER_SECONDS) as response:
            return _save(response, url, report, max_bytes)
    except HTTPError as error:
        reason = str(error.reason).splitlines()[0] if error.reason else ""
        raise OSError(f"{url} could not be fetched (HTTP {error.code} {reason}): check the address") from error
    except URLError as error:
        reason = getattr(error.reason, "strerror", None) or error.reason
        raise OSError(f"{url} could not be fetched ({reason}): check the address") from error
    except TimeoutError as error:
        raise _too_slow(url) from error
    except (http.client.HTTPException, ValueError, ConnectionError) as error:
        reason = ascii(str(error) or type(error).__name__)[1:80].rstrip("'")
        raise OSError(f"{url} could not be fetched ({reason}): check the address") from error


def _request(url: str) -> urllib.request.Request:
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    address = parts._replace(
        netloc=host, path=quote(parts.path, _RESERVED), query=quote(parts.query, _RESERVED), fragment=""
    )
    headers = {"User-Agent": "transformers_msstsvis", "Accept-Encoding": "identity"}
    if user:
        headers["Authorization"] = f"Basic {b64encode(unquote(user).encode()).decode()}"
    return urllib.request.Request(address.geturl(), headers=headers)


def _save(response, url: str, report: Callable[[str], None], max_bytes: int) -> BinaryIO:
    announced = response.headers.get("Content-Length", "")
    announced = int(announced) if announced.isdecimal() and len(announced) <= _LONGEST_NUMBER else None
    too_large = OSError(
        f"{url} is larger than {max_bytes / 2**30:.3g} GiB, or never ends: download the part that you need, and pass "
        "the file"
    )
    if announced is not None and announced > max_bytes:
        raise too_large
    # Closed and thereby deleted with the reader that asked for it, and here if anything goes wrong.
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(tempfile.NamedTemporaryFile(prefix="transformers_msstsvis_"))
        total, since, before = 0, time.monotonic(), 0
        with logging.tqdm(
            total=announced, desc=f"fetching {name_of_url(url)}", unit="B", unit_scale=True, leave=False
        ) as bar:
            while True:
                try:
                    piece = response.read1(_PIECE)
                except (http.client.IncompleteRead, ConnectionError):
                    if announced is None:
                        report(f"the transfer broke off after {total} bytes")
                    piece = b""
                if not piece:
                    break
                file.write(piece)
                total += len(piece)
                bar.update(len(piece))
                if total > max_bytes:
                    raise too_large
                if (passed := time.monotonic() - since) > ANSWER_SECONDS:
                    if total - before < SLOWEST * passed:
                        raise _too_slow(url)
                    since, before = time.monotonic(), total
        if announced is not None and total < announced:
            report(f"the transfer broke off after {total} of {announced} bytes")
        file.flush()
        file.seek(0)
        stack.pop_all()
        return file


def _too_slow(url: str) -> OSError:
    return OSError(f"{url} sends nothing, or too slowly, for {ANSWER_SECONDS:g} seconds: try later, or download it")


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request, response, code, message, headers, address):
        if urlsplit(urljoin(request.full_url, address)).scheme.lower() not in SCHEMES:
            raise URLError(f"it leads to {address}, and only http and https are followed")
        return super().redirect_request(request, response, code, message, headers, address)


class _Connections(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    """Connections that answer in time, and lead to public addresses if nothing else is allowed."""

    def __init__(self, public_only: bool):
        urllib.request.HTTPHandler.__init__(self)
        urllib.request.HTTPSHandler.__init__(self)
        self.public_only = public_only

    def http_open(self, request):
        return self.do_open(self._connection(http.client.HTTPConnection), request)

    def https_open(self, request):
        return self.do_open(self._connection(http.client.HTTPSConnection), request)

    def _connection(self, kind: type[http.client.HTTPConnection]) -> Callable[..., http.client.HTTPConnection]:
        public_only = self.public_only

        class Connection(kind):
            gave_up = False

            def connect(self):
                if public_only:
                    for *_, address in socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM):
                        _check_public(address[0])
                super().connect()
                if public_only:  # the name may lead elsewhere now
                    _check_public(self.sock.getpeername()[0])

            def getresponse(self):
                # The time limit of a socket starts again with every byte.
                timer = threading.Timer(ANSWER_SECONDS, self._give_up)
                timer.daemon = True
                timer.start()
                try:
                    return super().getresponse()
                except (http.client.HTTPException, OSError):
                    if self.gave_up:
                        raise TimeoutError from None
                    raise
                finally:
                    timer.cancel()

            def _give_up(self):
                self.gave_up = True
                with contextlib.suppress(OSError):
                    self.sock.shutdown(socket.SHUT_RDWR)

        return Connection


def _check_public(address: str) -> None:
    given = ipaddress.ip_address(address.partition("%")[0])
    inner = [given]
    if given.version == 6:
        # Addresses of the older protocol, in the forms that gateways take.
        inner += [given.ipv4_mapped, given.sixtofour]
        if given in _NAT64:
            inner.append(ipaddress.IPv4Address(int(given) & 0xFFFFFFFF))
    if any(part is not None and (not part.is_global or part.is_multicast) for part in inner):
        raise OSError(f"{address} is not a public address, and only those are allowed here")
