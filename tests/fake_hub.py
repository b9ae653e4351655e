"""A Hugging Face hub on loopback: enough of one for `huggingface_hub` to create, push to and load from
repositories. Every file is committed inline."""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = urlsplit(self.path).path.strip("/").split("/")
        if parts == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            self.server.repositories.setdefault(name, {})
            self.answer(dict(url=f"{self.server.url}/{name}"))
        elif parts[:2] == ["api", "models"] and parts[4] == "preupload":
            files = [
                dict(path=f["path"], uploadMode="regular", shouldIgnore=False)
                for f in json.loads(body)["files"]
            ]
            self.answer(dict(files=files))
        elif parts[:2] == ["api", "models"] and parts[4] == "commit":
            repository = self.server.repositories["/".join(parts[2:4])]
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    repository[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.server.commits += 1
            self.answer(
                dict(
                    commitUrl=f"{self.server.url}/{'/'.join(parts[2:4])}/commit/{self.commit}",
                    commitOid=self.commit,
                )
            )
        else:
            self.answer({}, 404 if parts[:2] != ["api", "validate-yaml"] else 200)

    def do_GET(self, head=False):
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        if parts[:2] == ["api", "models"] and "/".join(parts[2:4]) in self.server.repositories:
            files = self.server.repositories["/".join(parts[2:4])]
            if parts[4:5] == ["tree"]:
                return self.answer(
                    [dict(type="file", path=name, size=len(x), oid="0") for name, x in files.items()]
                )
            name = "/".join(parts[2:4])
            siblings = [dict(rfilename=name) for name in files]
            return self.answer(dict(id=name, modelId=name, sha=self.commit, siblings=siblings, tags=[]))
        files = self.server.repositories.get("/".join(parts[:2]))
        if files is None or parts[2:3] != ["resolve"]:
            return self.answer(dict(error="Repository not found"), 404, **{"X-Error-Code": "RepoNotFound"})
        content = files.get("/".join(parts[4:]))
        if content is None:
            missing = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": self.commit}
            return self.answer(dict(error="Entry not found"), 404, **missing)
        self.send(
            content,
            200,
            {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": self.commit},
            head,
        )

    def do_HEAD(self):
        self.do_GET(head=True)

    @property
    def commit(self) -> str:
        return f"{self.server.commits:040x}"

    def answer(self, content, status=200, **headers):
        kind = {"Content-Type": "application/json"}
        self.send(json.dumps(content).encode(), status, kind | headers, self.command == "HEAD")

    def send(self, content, status, headers, head):
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if not head:
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@contextmanager
def fake_hub():
    """The server; its `url`, and `repositories`: name to path to bytes."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.repositories, server.commits = {}, 0
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
