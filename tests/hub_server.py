"""A stand-in for the Hugging Face hub: the calls with which its client uploads a folder, on
127.0.0.1, into dicts. `HF_ENDPOINT` leads a process there."""

import base64
from collections.abc import Iterator
import contextlib
import hashlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import json
import re
import threading
from typing import Any

import yaml

TOKENS = {"hf_writes": "write", "hf_reads": "read"}  # token -> its role
USER, GROUP = "alice", "lab"


class Hub:
    """What was uploaded.

    Attributes:
      repositories: name -> {path: bytes}.
      private: names of the repositories that nobody else sees.
      calls: method and path of each call.
      full: names of repositories that take no commits.
    """

    def __init__(self):
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.calls: list[str] = []
        self.full: set[str] = set()
        self._large: dict[str, bytes] = {}
        self.url = ""

    def answer(self, method: str, path: str, token: str, body: bytes) -> tuple[int, Any]:
        """(status, what is answered) of a call."""
        self.calls.append(f"{method} {path}")
        if path.startswith("/large/"):
            self._large[path.removeprefix("/large/")] = body
            return 200, {}
        if token not in TOKENS:
            return 401, {"error": "Invalid username or password."}
        for route, function in ROUTES.items():
            found = re.fullmatch(route, f"{method} {path}")
            if found:
                return function(self, body, *found.groups())
        return 404, {"error": f"the stand-in knows no {method} {path}"}

    def whoami(self, _, token: str) -> tuple[int, Any]:
        role = {"accessToken": {"displayName": "t", "role": TOKENS[token]}}
        return 200, {"type": "user", "name": USER, "orgs": [{"name": GROUP}], "auth": role}

    def create(self, body: bytes) -> tuple[int, Any]:
        given = json.loads(body)
        name = f"{given.get('organization') or USER}/{given['name']}"
        if name in self.repositories:
            return 409, {"error": "You already created this repo", "url": f"{self.url}/{name}"}
        self.repositories[name] = {".gitattributes": b"*.safetensors filter=lfs"}
        if given.get("private") or given.get("visibility") == "private":
            self.private.add(name)
        return 200, {"url": f"{self.url}/{name}", "name": name}

    def tree(self, _, name: str) -> tuple[int, Any]:
        files = self.repositories[name].items()
        return 200, [
            {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for path, data in files
        ]

    def validate(self, body: bytes) -> tuple[int, Any]:
        text = json.loads(body)["content"]
        found = yaml.safe_load(text.split("---")[1])
        errors = [] if isinstance(found, dict) else [{"message": "no front matter"}]
        return (400 if errors else 200), {"errors": errors, "warnings": []}

    def modes(self, body: bytes, _) -> tuple[int, Any]:
        paths = [file["path"] for file in json.loads(body)["files"]]
        large = {True: "lfs", False: "regular"}
        files = [
            {"path": path, "uploadMode": large[path.endswith(".safetensors")]} for path in paths
        ]
        return 200, {"files": [file | {"shouldIgnore": False} for file in files]}

    def batch(self, body: bytes, _) -> tuple[int, Any]:
        objects = [
            one | {"actions": {"upload": {"href": f"{self.url}/large/{one['oid']}"}}}
            for one in json.loads(body)["objects"]
        ]
        return 200, {"transfer": "basic", "objects": objects}

    def commit(self, body: bytes, name: str) -> tuple[int, Any]:
        if name in self.full:
            return 403, {"error": "no storage is left"}
        files = self.repositories[name]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "deletedFile":
                del files[value["path"]]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                data = self._large[value["oid"]]
                assert hashlib.sha256(data).hexdigest() == value["oid"]
                files[value["path"]] = data
        oid = hashlib.sha1(body).hexdigest()
        return 200, {"commitOid": oid, "commitUrl": f"{self.url}/{name}/commit/{oid}"}


NAME = r"([\w.-]+/[\w.-]+)"
ROUTES = {
    r"POST /api/repos/create": Hub.create,
    rf"GET /api/models/{NAME}/tree/main": Hub.tree,
    r"POST /api/validate-yaml": Hub.validate,
    rf"POST /api/models/{NAME}/preupload/main": Hub.modes,
    rf"POST /{NAME}\.git/info/lfs/objects/batch": Hub.batch,
    rf"POST /api/models/{NAME}/commit/main": Hub.commit,
}


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    """The stand-in, while it answers at `Hub.url`."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do(self):
            size = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(size)
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            path = self.path.partition("?")[0]
            if path == "/api/whoami-v2" and token in TOKENS:
                hub.calls.append(f"GET {path}")
                status, found = hub.whoami(body, token)
            else:
                status, found = hub.answer(self.command, path, token, body)
            data = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            if status >= 400:
                self.send_header("X-Error-Message", found["error"])
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
