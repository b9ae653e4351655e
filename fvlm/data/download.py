"""Fetching videos by URL: several at once, retried, limited in size and time, kept in a cache."""

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from fvlm.data.sources import Record, Url
from fvlm.data.video import BadClip, Video
from fvlm.files import scratch_path, sweep
from fvlm.weights import cache_folder

CONNECT_SECONDS, SILENCE_SECONDS = 5, 15  # without an answer; without a byte
RETRY_ON = (408, 425, 429, 500, 502, 503, 504)


class Downloader:
    """Turns records with a `Url` into records with a `Video` file. `submit` returns at once, a future of the
    record."""

    def __init__(
        self,
        folder: Path | None = None,
        threads: int = 16,
        most_bytes: int = 500 << 20,
        seconds: float = 300,
        retries: int = 3,
    ):
        self.folder = folder or cache_folder() / "downloads"
        self.most_bytes, self.seconds, self.retries = most_bytes, seconds, retries
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
        reachable, too large."""
        import requests

        path = self.folder / hashlib.sha256(address.encode()).hexdigest()
        if path.exists():
            return path
        self.folder.mkdir(parents=True, exist_ok=True)
        scratch = scratch_path(path)
        try:
            with _session(self.retries) as session:
                self._download(session, address, scratch)
            scratch.replace(path)
        except requests.RequestException as error:
            raise BadClip("not reachable", f"{address}: {_reason(error)}", _may_pass(error)) from error
        finally:
            scratch.unlink(missing_ok=True)
        return path

    def _download(self, session, address: str, scratch: Path):
        """The body into `scratch`. A body that breaks off is asked for again; the session asks again for an
        answer."""
        deadline = time.monotonic() + self.seconds
        for attempt in range(self.retries + 1):
            with session.get(address, stream=True, timeout=(CONNECT_SECONDS, SILENCE_SECONDS)) as answer:
                answer.raise_for_status()
                broken = self._body(answer, scratch, deadline)
            if not broken:
                return
            time.sleep(0.5 * 2**attempt)
        raise BadClip("not reachable", f"{address}: {broken}", temporary=True)

    def _body(self, answer, scratch: Path, deadline: float) -> str:
        """Write what comes; returns why it broke off, "" if it did not."""
        import requests

        expected, received = int(answer.headers.get("Content-Length") or 0), 0
        if expected > self.most_bytes:
            raise BadClip("too large", f"{answer.url}: {expected} bytes; at most {self.most_bytes}")
        try:
            with open(scratch, "wb") as file:
                for piece in answer.iter_content(1 << 16):
                    received += len(piece)
                    if received > self.most_bytes:
                        raise BadClip("too large", f"{answer.url}: more than {self.most_bytes} bytes")
                    if time.monotonic() > deadline:
                        raise BadClip(
                            "not reachable",
                            f"{answer.url}: not complete after {self.seconds:.0f} s",
                            temporary=True,
                        )
                    file.write(piece)
        except requests.RequestException as error:
            return f"broke off after {received} bytes: {_reason(error)}"
        if expected > received and "Content-Encoding" not in answer.headers:
            return f"broke off after {received} of {expected} bytes"
        return ""


def _session(retries: int):
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    session = requests.Session()
    policy = Retry(
        total=retries, backoff_factor=0.5, status_forcelist=RETRY_ON, respect_retry_after_header=False
    )
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=policy))
    return session


def _reason(error: Exception) -> str:
    answer = getattr(error, "response", None)
    return f"HTTP {answer.status_code}" if answer is not None else str(error)[:200]


def _may_pass(error: Exception) -> bool:
    """Whether another time there may be an answer: no connection, no answer in time, or one that says so."""
    import requests

    answer = getattr(error, "response", None)
    if answer is not None:
        return answer.status_code in RETRY_ON or answer.status_code >= 500
    return isinstance(error, requests.ConnectionError | requests.Timeout | requests.exceptions.RetryError)
