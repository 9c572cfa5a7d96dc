"""A stand-in for Google's object store: gs:// addresses that epath, orbax and tensorstore reach.

It keeps objects, not folders, as the real one does: a folder is there as long as something lies in
it, a file is there when it is closed, and nothing is appended or renamed in place. Tensorstore's
own driver talks to it over HTTP, by the part of the JSON API that it uses; epath reaches it by
fsspec, where the package gcsfs stands otherwise.
"""

from collections.abc import Iterator
import http.server
import io
import itertools
import json
import os
import threading
import urllib.parse

import fsspec

ADDRESS, TOKEN = "TENSORSTORE_GCS_HTTP_URL", "GOOGLE_AUTH_TOKEN_FOR_TESTING"


class Bucket:
    """All objects: {"bucket/folder/file": (generation, content)}."""

    def __init__(self):
        self.objects: dict[str, tuple[int, bytes]] = {}
        self.changes: list[str] = []  # names in the order of writing, and "-name" where one goes
        self.lock = threading.Lock()
        self.numbers = itertools.count(1)

    def put(self, name: str, content: bytes, generation: int | None = None) -> int | None:
        """The new generation; None, and no change, where the old one is not as given."""
        with self.lock:
            if generation is not None and generation != self.objects.get(name, (0,))[0]:
                return None
            self.objects[name] = (next(self.numbers), content)
            self.changes.append(name)
            return self.objects[name][0]

    def remove(self, name: str, generation: int | None = None) -> int | None:
        """The generation that went; None, and no change, where it is not as given."""
        with self.lock:
            if generation is not None and generation != self.objects[name][0]:
                return None
            self.changes.append(f"-{name}")
            return self.objects.pop(name)[0]

    def names(self, prefix: str) -> list[str]:
        with self.lock:
            return sorted(name for name in self.objects if name.startswith(prefix))


class Handler(http.server.BaseHTTPRequestHandler):
    """The JSON API of storage.googleapis.com over the objects of `server.bucket`."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_) -> None:
        pass

    def answer(self, code: int, content: bytes = b"", **headers) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def asked(self) -> tuple[str, str | None, dict[str, str]]:
        """(bucket, object or None, query)."""
        url = urllib.parse.urlsplit(self.path)
        _, _, rest = url.path.partition("/storage/v1/b/")
        place, _, name = rest.partition("/o/")
        name = urllib.parse.unquote(name) or None
        return place.removesuffix("/o"), name, dict(urllib.parse.parse_qsl(url.query))

    def do_GET(self) -> None:
        place, name, query = self.asked()
        if name is None:
            start = len(place) + 1
            found = self.server.bucket.names(f"{place}/{query.get('prefix', '')}")
            items = [{"name": one[start:], "size": "0", "generation": "1"} for one in found]
            self.answer(200, json.dumps({"items": items}).encode())
            return
        generation, content = self.server.bucket.objects.get(f"{place}/{name}", (0, b""))
        if not generation:
            self.answer(404)
        elif query.get("ifGenerationNotMatch") == str(generation):
            self.answer(304)
        elif span := self.headers.get("Range"):
            first, last = span.removeprefix("bytes=").split("-")
            part = content[int(first) : int(last) + 1 if last else None]
            range_ = f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"
            self.answer(206, part, Content_Range=range_, x_goog_generation=generation)
        else:
            self.answer(200, content, x_goog_generation=generation)

    def do_POST(self) -> None:
        place, _, query = self.asked()
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        wanted = query.get("ifGenerationMatch")
        wanted = None if wanted is None else int(wanted)
        generation = self.server.bucket.put(f"{place}/{query['name']}", content, wanted)
        if generation is None:
            self.answer(412)
        else:
            entry = {"name": query["name"], "generation": str(generation)}
            self.answer(200, json.dumps(entry | {"size": str(len(content))}).encode())

    def do_DELETE(self) -> None:
        place, name, query = self.asked()
        wanted = query.get("ifGenerationMatch")
        wanted = None if wanted is None else int(wanted)
        if f"{place}/{name}" not in self.server.bucket.objects:
            self.answer(404)
        elif self.server.bucket.remove(f"{place}/{name}", wanted) is None:
            self.answer(412)
        else:
            self.answer(204)


class Written(io.BytesIO):
    """A file that becomes an object when it is closed."""

    def __init__(self, bucket: Bucket, name: str):
        super().__init__()
        self.bucket, self.object = bucket, name

    def close(self) -> None:
        if not self.closed:
            self.bucket.put(self.object, self.getvalue())
        super().close()


class FileSystem(fsspec.AbstractFileSystem):
    """What epath finds under "gs"."""

    protocol = ("gs", "gcs")
    cachable = False

    def __init__(self, bucket: Bucket):
        super().__init__()
        self.bucket = bucket

    def ls(self, path, detail=True, **_):
        path = self._strip_protocol(path).rstrip("/")
        if path in self.bucket.objects:
            size = len(self.bucket.objects[path][1])
            found = {path: {"name": path, "size": size, "type": "file"}}
        else:
            found = {}
            for name in self.bucket.names(f"{path}/" if path else ""):
                here, _, below = name[len(path) :].lstrip("/").partition("/")
                one = f"{path}/{here}".lstrip("/")
                kind = "directory" if below else "file"
                size = 0 if below else len(self.bucket.objects[name][1])
                found[one] = {"name": one, "size": size, "type": kind}
        if not found:
            raise FileNotFoundError(path)
        return [*found.values()] if detail else [*found]

    def info(self, path, **_):
        path = self._strip_protocol(path).rstrip("/")
        first = self.ls(path)[0]
        return first if first["name"] == path else {"name": path, "size": 0, "type": "directory"}

    def _open(self, path, mode="rb", **_):
        if mode == "wb":
            return Written(self.bucket, path)
        if mode != "rb":
            raise ValueError(f"an object store opens no file as {mode!r}")
        if path not in self.bucket.objects:
            raise FileNotFoundError(path)
        return io.BytesIO(self.bucket.objects[path][1])

    def cp_file(self, path1, path2, **_):
        source = self.bucket.objects[self._strip_protocol(path1)][1]
        self.bucket.put(self._strip_protocol(path2), source)

    def mv(self, path1, path2, **_):
        raise OSError(f"an object store does not rename {path1}")

    def _rm(self, path):
        if self._strip_protocol(path) in self.bucket.objects:  # not the name of a folder
            self.bucket.remove(self._strip_protocol(path))

    def mkdir(self, path, create_parents=True, **_):
        """Nothing: there are no folders."""

    def makedirs(self, path, exist_ok=False):
        """Nothing: there are no folders."""


def serve(monkeypatch) -> Iterator[Bucket]:
    """A bucket behind all gs:// addresses, until the generator is closed."""
    from etils.epath import backend
    from orbax.checkpoint._src.path import gcs_utils

    bucket = Bucket()
    server = http.server.ThreadingHTTPServer(("localhost", 0), Handler)
    server.bucket = bucket
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setitem(os.environ, ADDRESS, f"http://localhost:{server.server_port}")
    monkeypatch.setitem(os.environ, TOKEN, "anyone")
    file_system = FileSystem(bucket)

    def find(name: str) -> fsspec.AbstractFileSystem:
        return file_system if name in ("gs", "gcs") else fsspec.filesystem(name)

    monkeypatch.setattr(backend.fsspec_backend, "_get_filesystem", find)
    # orbax asks Google's own client, which is not installed, whether a bucket keeps folders
    monkeypatch.setattr(gcs_utils, "is_hierarchical_namespace_enabled", lambda path: False)
    yield bucket
    server.shutdown()
    server.server_close()
