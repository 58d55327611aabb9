"""A local server that imitates the Hugging Face Hub, and a second one that imitates the storage its links point to.

It serves checkpoints from memory, and fails as it is told. What it answers is quoted from huggingface_hub 2.4, named
``hf`` here. What hf does not show is from RFC 9110 and from S3's documented errors. ``python -m tests.support.fake_hub
FOLDER`` serves a folder as openai/gpt-oss-20b and prints its address.
"""

import argparse
import hashlib
import hmac
import json
import re
import socket
import threading
import time
from dataclasses import dataclass, field
from email.message import Message
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
BLOCK, SMALL_BLOCK = 1 << 20, 16 << 10


@dataclass
class Stored:
    """A file of a repository. Git LFS has it if ``lfs``."""

    data: bytes
    lfs: bool

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def blob_id(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()

    @cached_property
    def storage_etag(self) -> str:
        """Storage names content in its own way, not by the sha256 that the Hub tells."""
        return f'"{hashlib.md5(self.data).hexdigest()}-4"'


@dataclass
class Fault:
    """What goes wrong at requests to one server ("hub" or "cdn") whose path contains ``path``, ``times`` times after
    the first ``skip`` of them.

    ``status`` answers with an error, ``cut`` closes the connection after so many bytes of the body, ``flip`` changes
    one byte of the body, ``silent`` waits so many seconds before the answer, and ``body`` serves other content, with
    another ETag, as storage does when a file has changed. ``past`` sends so many bytes more than a range asks for.
    ``headers`` replace those of an error or of a range.
    """

    server: str
    path: str = ""
    times: int = 1
    skip: int = 0
    method: str = "GET"
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    flip: bool = False
    silent: float = 0.0
    body: bytes | None = None
    past: int = 0


@dataclass
class Asked:
    """A request that was answered with ``status`` and ``sent`` bytes of body, from ``start`` of the file on."""

    server: str
    method: str
    path: str
    headers: Message
    status: int = 0
    start: int = 0
    sent: int = 0


class FakeHub:
    """Both servers, while the context lasts. ``requests`` has what they were asked, in order.

    ``token``: what a request must present, None: nothing. ``link_seconds``: how long a link to storage is good.
    ``rate``: bytes a second of one answer's body; the servers then also keep little in the sockets, so that what they
    sent is what was received.
    """

    def __init__(self, files: dict[str, Stored], repo_id: str = "openai/gpt-oss-20b") -> None:
        self.files, self.repo_id = files, repo_id
        self.token: str | None = None
        self.gated = False
        self.link_seconds = 3600.0
        self.rate: float | None = None
        self.serves_ranges = True
        self.faults: list[Fault] = []
        self.requests: list[Asked] = []
        self._lock = threading.Lock()
        self._servers = [_Server(self, name) for name in ("hub", "cdn")]

    @property
    def address(self) -> str:
        return self._servers[0].address

    @property
    def storage(self) -> str:
        return self._servers[1].address

    def __enter__(self) -> "FakeHub":
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def asked(self, server: str, method: str = "GET", path: str = "") -> list[Asked]:
        with self._lock:
            return [r for r in self.requests if r.server == server and r.method == method and path in r.path]

    def sent(self, path: str = "") -> int:
        """Return how many bytes of files' bodies have been sent."""
        return sum(request.sent for request in [*self.asked("cdn"), *self.asked("hub", path="/resolve/")])

    def record(self, request: Asked) -> None:
        with self._lock:
            self.requests.append(request)

    def fault(self, server: str, method: str, path: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if (fault.server, fault.method) != (server, method) or fault.path not in path or not fault.times:
                    continue
                if fault.skip:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                return fault
        return None

    def link(self, file: Stored) -> str:
        """Return a signed address in storage, as S3 and the CDN before it sign them: it names the time of its end."""
        path, end = f"/repos/{file.sha256}", f"{time.time() + self.link_seconds:.3f}"
        return f"{self.storage}{path}?Expires={end}&Signature={_signature(path, end)}"


def _signature(path: str, end: str) -> str:
    return hmac.new(b"storage", f"{path} {end}".encode(), "sha256").hexdigest()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, hub: FakeHub, name: str) -> None:
        super().__init__(("127.0.0.1", 0), _Hub if name == "hub" else _Storage)
        self.hub, self.name = hub, name
        self.address = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client may leave at any time."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub = self.server.hub
        self.asked = Asked(self.server.name, self.command, self.path, self.headers)
        hub.record(self.asked)
        fault = hub.fault(self.server.name, self.command, self.path)
        self.fault = fault or Fault(self.server.name)
        if self.fault.silent:
            time.sleep(self.fault.silent)
        if self.fault.status:
            self.refuse(self.fault.status, self.fault.headers)
        else:
            self.answer(hub)

    def answer(self, hub: FakeHub) -> None:
        raise NotImplementedError

    def refuse(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.reply(status, headers, body)

    def reply(self, status: int, headers: dict[str, str], body: bytes = b"", start: int = 0) -> None:
        self.asked.status, self.asked.start = status, start
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.send(body)

    def send(self, body: bytes) -> None:
        if self.fault.flip and body:
            body = body[:-1] + bytes([body[-1] ^ 1])
        end = len(body) if self.fault.cut is None else min(self.fault.cut, len(body))
        rate = self.server.hub.rate
        step = SMALL_BLOCK if rate else BLOCK
        if rate:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BLOCK)
        for at in range(0, end, step):
            block = memoryview(body)[at : min(at + step, end)]
            self.wfile.write(block)
            self.asked.sent += len(block)
            if rate:
                time.sleep(len(block) / rate)
        if end < len(body):
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)


class _Hub(_Handler):
    def refuse(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        # hf _format(): "Case {'error': 'my error'}"; _http.py: X_REQUEST_ID = "x-request-id".
        text = headers.get("X-Error-Message", "")
        self.reply(status, {"X-Request-Id": "test", **headers}, json.dumps({"error": text}).encode())

    def answer(self, hub: FakeHub) -> None:
        url = urlsplit(self.path)
        given = self.headers.get("Authorization")
        if hub.token is not None and given not in (None, f"Bearer {hub.token}"):
            # tests/test_utils_errors.py: Response(status_code=401, headers={..., "X-Error-Message": "Invalid
            # credentials in Authorization header"}) is not a missing repository.
            return self.refuse(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", url.path)
        resolve = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", url.path)
        found = api or resolve
        if not found or found[1] != hub.repo_id or (hub.token is not None and given is None and not hub.gated):
            # hf hf_raise_for_status(): "401 is misleading as it is returned for: private and gated repos if user is not
            # authenticated, missing repos", and error_code == "RepoNotFound".
            status = 401 if given is None else 404
            return self.refuse(status, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        if unquote(found[2] or "main") not in ("main", COMMIT):
            # tests/test_utils_errors.py: Response(status_code=404, headers={"X-Error-Code": "RevisionNotFound", ...})
            return self.refuse(404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
        if resolve and hub.gated and given is None:
            # hf hf_raise_for_status(): error_code == "GatedRepo" is GatedRepoError, whatever the status.
            return self.refuse(401, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
        return self._model(hub, parse_qs(url.query)) if api else self._resolve(hub, unquote(resolve[3]))  # type: ignore[index]

    def _model(self, hub: FakeHub, query: dict[str, list[str]]) -> None:
        """hf HfApi.model_info(): params["blobs"] = True. ModelInfo: kwargs.pop("id"), ("sha"), ("siblings") of
        sibling["rfilename"], .get("size"), .get("blobId"), ["lfs"]["size"], ["lfs"]["sha256"], ["lfs"]["pointerSize"].
        """
        siblings: list[dict[str, Any]] = []
        for name, file in hub.files.items():
            sibling: dict[str, Any] = {"rfilename": name}
            if query.get("blobs", [""])[0].lower() == "true":
                sibling |= {"size": len(file.data), "blobId": file.blob_id}
                if file.lfs:
                    sibling["lfs"] = {"size": len(file.data), "sha256": file.sha256, "pointerSize": 135}
            siblings.append(sibling)
        about = {"_id": "1", "id": hub.repo_id, "modelId": hub.repo_id, "sha": COMMIT, "private": False}
        body = json.dumps({**about, "tags": [], "siblings": siblings}).encode()
        self.reply(200, {"Content-Type": "application/json; charset=utf-8"}, body)

    def _resolve(self, hub: FakeHub, name: str) -> None:
        """hf constants.py: "X-Repo-Commit", "X-Linked-Etag", "X-Linked-Size". get_hf_file_metadata(): "We favor a
        custom header indicating the etag of the linked resource, and we fall back to the regular etag header";
        location=response.headers.get("Location"); Content-Length is not used "if response.is_redirect"."""
        file = hub.files.get(name)
        commit = {"X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if file is None:
            # tests/test_utils_errors.py: Response(status_code=404, headers={"X-Error-Code": "EntryNotFound", ...})
            error = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            return self.refuse(404, commit | error)
        if not file.lfs:
            # hf hf_hub_url(): "git-sha1 if stored in git, or its sha256 if stored in git-lfs"
            return self.reply(200, commit | {"ETag": f'"{file.blob_id}"'}, self.fault.body or file.data)
        linked = {"X-Linked-Size": str(len(file.data)), "X-Linked-ETag": f'"{file.sha256}"'}
        self.reply(302, commit | linked | {"Location": hub.link(file), "ETag": f'"{quote(name)}"'})


class _Storage(_Handler):
    def refuse(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.reply(status, {"Content-Type": "application/xml", **headers}, body or b"<Error></Error>")

    def answer(self, hub: FakeHub) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        file = next((file for file in hub.files.values() if url.path == f"/repos/{file.sha256}"), None)
        if self.headers.get("Authorization"):
            # S3, InvalidArgument: "Only one auth mechanism allowed"
            return self.refuse(400, {}, b"<Error><Code>InvalidArgument</Code></Error>")
        end = query.get("Expires", "0")
        if file is None or query.get("Signature") != _signature(url.path, end) or time.time() > float(end):
            # S3, AccessDenied: "Request has expired"
            return self.refuse(
                403, {}, b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
            )
        if self.fault.body is not None:
            file = Stored(self.fault.body, True)
        data = file.data
        headers = {"ETag": file.storage_etag, "Content-Type": "binary/octet-stream"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        # RFC 9110, 13.1.5: if the validator of If-Range does not match, the recipient ignores Range.
        if wanted is None or not hub.serves_ranges or self.headers.get("If-Range", headers["ETag"]) != headers["ETag"]:
            return self.reply(200, headers, data)
        first, last = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
        if first > last:
            return self.refuse(416, {"Content-Range": f"bytes */{len(data)}"})  # RFC 9110, 15.5.17
        # tests/test_file_download.py: headers={"Content-Length": "70", "Content-Range": "bytes 30-99/100"}
        last = min(last + self.fault.past, len(data) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        headers |= self.fault.headers
        return self.reply(206, headers, data[first : last + 1], first)


def files_of(folder: Path) -> dict[str, Stored]:
    """Read a folder. As in published repositories, weights and a tokenizer.json of 10 MB or more are in Git LFS."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    large = {path for path in paths if path.suffix == ".safetensors" or path.stat().st_size >= 10_000_000}
    return {path.relative_to(folder).as_posix(): Stored(path.read_bytes(), path in large) for path in paths}


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve a checkpoint folder as the Hub would, until Ctrl-C.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repo", default="openai/gpt-oss-20b", help="The id that it has there.")
    options = parser.parse_args()
    with FakeHub(files_of(options.folder), options.repo) as hub:
        print(hub.address, flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
