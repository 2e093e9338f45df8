"""Archives, sources and a stand-in server for the tests of the download."""

import contextlib
import hashlib
import json
import os
import re
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from lib.core import schema
from lib.download import sources, transfer

PHOTO = b"\xff\xd8\xff" + os.urandom(5000)
MEMBERS = (("train/1.jpg", PHOTO), ("labels.csv", b"filename,label\n"))
KINDS = {
    "kaggle": schema.Kaggle,
    "archive": schema.Archive,
    "drive": schema.Drive,
    "folder": schema.Folder,
    "sample": schema.Sample,
}


def make_zip(path, members=MEMBERS):
    """Write a zip of (name, content) and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def digest(path):
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def source(kind, **fields):
    """Return the source called butterfly of a kind."""
    return KINDS[kind](kind=kind, name="butterfly", **fields)


def refusal(error, settings, folder):
    """Return the message of a failed fetch after checking that it left nothing that passes for fetched."""
    with pytest.raises(error) as caught:
        sources.fetch(settings, folder)
    assert not (folder / "raw").exists() and not (folder / "source.json").exists()
    assert not (folder / "fetch.partial").exists()
    return str(caught.value)


class Handler(BaseHTTPRequestHandler):
    """A file server with Range, and Kaggle's API as the real client calls it."""

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for key, value in {"Content_Length": len(body), **headers}.items():
            self.send_header(key.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        server = self.server
        server.seen.append((self.path, dict(self.headers), None))
        content = server.files[urlsplit(self.path).path]
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        if server.failures or start >= len(content):
            self.answer(server.failures.pop(0) if server.failures else 416)
            return
        body = content[start:]
        sent = body[: server.cuts.pop(0)] if server.cuts else body
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", '"1"')
        self.send_header("Last-Modified", "Wed, 01 Jan 2025 00:00:00 GMT")
        self.end_headers()
        self.wfile.write(sent)
        self.close_connection = True

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((self.path, dict(self.headers), json.loads(body)))
        if self.server.refusal:
            status, text = self.server.refusal
            return self.answer(status, text, Content_Type="application/json")
        if self.path.endswith("GetDatasetMetadata"):
            info = {"info": {"licenses": [{"name": "CC0-1.0"}]}}
            return self.answer(200, json.dumps(info).encode(), Content_Type="application/json")
        if self.path.endswith("ListDatasets"):
            others = {"ref": "another/butterflies", "totalBytes": "1"}
            butterflies = {
                "ref": "someone/butterflies",
                "title": "Some, butterflies",
                "totalBytes": str(self.server.listed),
            }
            listed = json.dumps({"datasets": [others, butterflies]}).encode()
            return self.answer(200, listed, Content_Type="application/json")
        return self.answer(302, Location="http://localhost/files/archive.zip")


@contextlib.contextmanager
def serving(monkeypatch):
    """Run the server on a free port; only its own proxy settings count, and retries come at once."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.seen, server.files, server.cuts, server.failures, server.refusal = [], {}, [], [], None
    server.listed = 1000
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(transfer, "BACKOFF", 0)
    monkeypatch.setattr(transfer, "CHUNK", 100)
    yield server
    server.shutdown()
    server.server_close()
