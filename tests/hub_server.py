"""A hub of a few files on this machine: what huggingface_hub asks, no more."""

import base64
import contextlib
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34


class Hub(BaseHTTPRequestHandler):
    """Serves ``folder`` as every model of ``owner``; keeps what is pushed there."""

    def log_message(self, *_):
        pass

    def answer(self, content, status: int = 200, **headers) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def file(self, path: str) -> None:
        body = (self.server.folder / path).read_bytes()
        etag = f'"{hashlib.sha1(body).hexdigest()}"'
        self.answer(body, ETag=etag, X_Repo_Commit=COMMIT)

    def do_GET(self):
        self.server.asked.append(f"{self.command} {self.path}")
        self.server.tokens.append(self.headers.get("Authorization"))
        path = unquote(urlsplit(self.path).path)
        if "/resolve/" in path:
            return self.file(path.split("/", 5)[5])
        if path.count("/") < 4:
            return self.answer({}, 404)
        _, _, kind, owner, name, *rest = path.split("/")
        if kind != "models" or owner != self.server.owner:
            message = {"X_Error_Code": "RepoNotFound", "X_Error_Message": "none such"}
            return self.answer({"error": "none such"}, 404, **message)
        if rest[:1] == ["revision"] and rest[1] not in ("main", "v1", COMMIT):
            return self.answer({}, 404, X_Error_Code="RevisionNotFound")
        if rest[:1] == ["tree"]:
            files = sorted(p for p in self.server.folder.iterdir() if p.is_file())
            row = lambda p: {"type": "file", "path": p.name, "size": p.stat().st_size}
            return self.answer([row(p) | {"oid": "0" * 40} for p in files])
        about = {"id": f"{owner}/{name}", "sha": COMMIT, "siblings": []}
        return self.answer(about | {"private": self.server.private})

    do_HEAD = do_GET

    def do_POST(self):
        text = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        self.server.tokens.append(self.headers.get("Authorization"))
        place = f"http://localhost:{self.server.server_port}/{self.server.owner}/made"
        if not self.headers.get("Authorization"):
            return self.answer({"error": "Invalid username or password."}, 401)
        if self.path.endswith("/repos/create"):
            self.server.created.append(json.loads(text))
            return self.answer({"url": place, "name": f"{self.server.owner}/made"})
        if self.path.endswith("/validate-yaml"):
            return self.answer({"warnings": [], "errors": []})
        if "/preupload/" in self.path:
            as_file = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            rows = json.loads(text)["files"]
            return self.answer({"files": [{"path": r["path"]} | as_file for r in rows]})
        for line in map(json.loads, text.splitlines()):
            if line["key"] == "file":
                value = line["value"]
                content = base64.b64decode(value["content"])
                self.server.pushed[value["path"]] = content
        done = {"commitUrl": f"{place}/commit/{COMMIT}", "commitOid": COMMIT}
        return self.answer(done | {"success": True})


@contextlib.contextmanager
def serving(folder: Path, owner: str = "org", *, private: bool = True):
    """The server; its ``asked``, ``tokens``, ``created`` and ``pushed`` say what was.

    ``env`` are the variables by which the hub's library finds it.
    """
    server = ThreadingHTTPServer(("localhost", 0), Hub)
    server.folder, server.owner, server.private = folder, owner, private
    server.asked, server.tokens, server.created, server.pushed = [], [], [], {}
    server.env = {
        "HF_ENDPOINT": f"http://localhost:{server.server_port}",
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
    }
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
