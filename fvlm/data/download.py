"""Fetching videos by URL: several at once, retried, limited in size and time, from public addresses, kept in
a cache."""

import hashlib
import ipaddress
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from fvlm.cache import cache_folder
from fvlm.data.sources import Record, Url
from fvlm.data.video import MOST_BYTES, BadClip, Video
from fvlm.files import put, scratch_path, sweep

CONNECT_SECONDS, SILENCE_SECONDS = 5, 15  # without an answer; without a byte
RETRY_ON = (408, 425, 429, 500, 502, 503, 504)
PRIVATE = "is in a private network, where lists from elsewhere have no business: --allow-private fetches it"
TRANSLATED = ipaddress.ip_network("64:ff9b::/96")  # IPv6 for the IPv4 address in its last four bytes


class Downloader:
    """Turns records with a `Url` into records with a `Video` file. `submit` returns at once, a future of the
    record.

    seconds: for one file, from the first attempt to the last byte. allow_private: fetch from this machine and
    its network too."""

    def __init__(
        self,
        folder: Path | None = None,
        threads: int = 16,
        most_bytes: int = MOST_BYTES,
        seconds: float = 300,
        retries: int = 3,
        allow_private: bool = False,
    ):
        self.folder = folder or cache_folder() / "downloads"
        self.most_bytes, self.seconds, self.retries = most_bytes, seconds, retries
        self.allow_private = allow_private
        self._pool = ThreadPoolExecutor(threads)
        sweep(self.folder)

    def submit(self, record: Record):
        return self._pool.submit(self._fetched, record)

    def close(self):
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _fetched(self, record: Record) -> Record:
        url = record.media
        if not isinstance(url, Url):
            return record
        try:
            return replace(record, media=Video(str(self.fetch(url.address)), url.start, url.end))
        except BadClip as bad:
            return replace(record, media=None, bad=bad)

    def fetch(self, address: str) -> Path:
        """The file behind an http(s) address, from the cache if it was fetched before. BadClip: not
        reachable, too large, private. OSError where the cache can't be written."""
        path = self.folder / hashlib.sha256(address.encode("utf-8", "surrogatepass")).hexdigest()
        if path.exists():
            return path
        self.folder.mkdir(parents=True, exist_ok=True)
        scratch, limit = scratch_path(path), _Limit(self.seconds, self.allow_private)
        try:
            with _session(self.retries, limit) as session:
                self._download(session, address, scratch, limit)
            if limit.over:  # a connection that was closed looks like an answer that has ended
                raise limit.reached(address)
            _cached(put, scratch, path)
        except BadClip:
            raise
        except _OfTheCache as error:
            raise _named(error.__cause__, self.folder) from None
        except Exception as error:  # whatever is made of an address, or of an answer, from anywhere
            if limit.over:
                raise limit.reached(address) from error
            raise BadClip("not reachable", f"{address[:200]}: {_reason(error)}", _may_pass(error)) from error
        finally:
            limit.end()
            scratch.unlink(missing_ok=True)
        return path

    def _download(self, session, address: str, scratch: Path, limit: "_Limit"):
        """The body into `scratch`. A body that breaks off is asked for again; the session asks again for an
        answer."""
        for attempt in range(self.retries + 1):
            with session.get(address, stream=True, timeout=(CONNECT_SECONDS, SILENCE_SECONDS)) as answer:
                answer.raise_for_status()
                broken = self._body(answer, scratch)
            if not broken:
                return
            if limit.over:
                raise limit.reached(address)
            time.sleep(0.5 * 2**attempt)
        raise BadClip("not reachable", f"{address[:200]}: {broken}", temporary=True)

    def _body(self, answer, scratch: Path) -> str:
        """Write what comes; returns why it broke off, "" if it did not."""
        import requests

        announced, received = answer.headers.get("Content-Length", ""), 0
        expected = int(announced) if announced.isascii() and announced.isdigit() else 0
        too_large = BadClip("too large", f"{answer.url[:200]}: more than {self.most_bytes} bytes")
        if expected > self.most_bytes:
            raise too_large
        try:
            with _cached(open, scratch, "wb") as file:
                for piece in answer.iter_content(1 << 16):
                    received += len(piece)
                    if received > self.most_bytes:
                        raise too_large
                    _cached(file.write, piece)
        except requests.RequestException as error:
            return f"broke off after {received} bytes: {_reason(error)}"
        if expected > received and "Content-Encoding" not in answer.headers:
            return f"broke off after {received} of {expected} bytes"
        return ""


class _OfTheCache(Exception):
    """An error of the disk, not of what is fetched."""


def _named(error: OSError, folder: Path) -> OSError:
    """The error, which says where it was if it did not."""
    error.filename = error.filename or str(folder)
    return error


def _cached(do, *arguments):
    try:
        return do(*arguments)
    except OSError as error:
        raise _OfTheCache from error


# ── How long, and where ──────────────────────────────────────────────────────────────────────────


class _Limit:
    """The time that one file may take, with all its attempts, redirects and bytes; and which addresses it may
    come from. A connection that is open when time is over is closed, whatever it waits for."""

    def __init__(self, seconds: float, allow_private: bool):
        self.seconds, self.allow_private, self.over = seconds, allow_private, False
        self._sockets, self._lock = [], threading.Lock()
        self._timer = threading.Timer(seconds, self._close)
        self._timer.daemon = True
        self._timer.start()

    def watch(self, connected: socket.socket):
        """Close this connection, too, when time is over."""
        with self._lock:  # a duplicate: TLS takes the socket itself away from who made it
            self._sockets.append(socket.socket(fileno=os.dup(connected.fileno())))
        if self.over:
            self._close()

    def end(self):
        self._timer.cancel()
        with self._lock:
            for duplicate in self._sockets:
                duplicate.close()
            self._sockets.clear()

    def reached(self, address: str) -> BadClip:
        return BadClip(
            "not reachable", f"{address[:200]}: not complete after {self.seconds:g} s", temporary=True
        )

    def check(self, host: str, port: int | None) -> list[str]:
        """The numeric addresses of a host. BadClip if one of them is private; OSError without any."""
        if self.over:
            raise self.reached(host)
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
        if not self.allow_private and (private := [a for a in addresses if not is_public(a)]):
            raise BadClip("private address", f"{host[:200]} ({private[0]}) {PRIVATE}", temporary=True)
        return addresses

    def _close(self):
        self.over = True
        with self._lock:
            for duplicate in self._sockets:
                try:
                    duplicate.shutdown(socket.SHUT_RDWR)
                except OSError:  # it was closed already
                    pass


def is_public(address: str) -> bool:
    """Whether a numeric address is one of the public internet, also where IPv6 wraps an IPv4 one."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo or (None, None))[1]
        if ip in TRANSLATED:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast


def _session(retries: int, limit: _Limit):
    """A session of requests whose connections, also after redirects, go to addresses that `limit` allows."""
    import requests
    from requests.adapters import HTTPAdapter
    from requests.utils import select_proxy
    from urllib3.connection import HTTPConnection, HTTPSConnection
    from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
    from urllib3.exceptions import NameResolutionError
    from urllib3.util import Retry

    def pools(checked: bool) -> dict:
        """urllib3's pools, of connections that are watched, and checked unless they are a proxy's."""

        class Checked:
            def _new_conn(self):
                name = self._dns_host
                try:
                    numbers = limit.check(name, self.port) if checked else [name]
                except socket.gaierror as error:
                    raise NameResolutionError(self.host, self, error) from error
                for number in numbers:
                    try:
                        self._dns_host = number  # what was checked: another answer could be another address
                        connected = super()._new_conn()
                        break
                    except Exception:
                        if number == numbers[-1]:
                            raise
                    finally:
                        self._dns_host = name
                limit.watch(connected)
                return connected

        plain = type("Plain", (Checked, HTTPConnection), {})
        secure = type("Secure", (Checked, HTTPSConnection), {})
        return dict(
            http=type("PlainPool", (HTTPConnectionPool,), dict(ConnectionCls=plain)),
            https=type("SecurePool", (HTTPSConnectionPool,), dict(ConnectionCls=secure)),
        )

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *arguments, **named):
            super().init_poolmanager(*arguments, **named)
            self.poolmanager.pool_classes_by_scheme = pools(checked=True)

        def proxy_manager_for(self, proxy, **named):
            manager = super().proxy_manager_for(proxy, **named)
            manager.pool_classes_by_scheme = pools(checked=False)
            return manager

        def send(self, request, *arguments, **named):
            if select_proxy(request.url, named.get("proxies")):  # which resolves the name itself
                _check_name(request.url, limit)
            return super().send(request, *arguments, **named)

    session = requests.Session()
    policy = Retry(
        total=retries,
        backoff_factor=0.5,
        backoff_max=8,
        status_forcelist=RETRY_ON,
        respect_retry_after_header=False,
    )
    for scheme in ("http://", "https://"):
        session.mount(scheme, Adapter(max_retries=policy))
    return session


def _check_name(url: str, limit: _Limit):
    """BadClip for a host that is private by its name or, where this machine can tell, by its address."""
    from urllib3.util import parse_url

    host = (parse_url(url).host or "").strip("[]")
    try:
        limit.check(host, None)
    except OSError:  # unknown here: the proxy may know it
        pass


def _reason(error: Exception) -> str:
    answer = getattr(error, "response", None)
    return f"HTTP {answer.status_code}" if answer is not None else str(error)[:200] or type(error).__name__


def _may_pass(error: Exception) -> bool:
    """Whether another time there may be an answer: no connection, no answer in time, or one that says so."""
    import requests

    answer = getattr(error, "response", None)
    if answer is not None:
        return answer.status_code in RETRY_ON or answer.status_code >= 500
    return isinstance(error, requests.ConnectionError | requests.Timeout | requests.exceptions.RetryError)
