"""As much of the Hugging Face Hub as pushing and fetching a model needs, over HTTP, in a folder.

A repository is a folder of commits, each a folder of files, and a table from branches to commits; a
commit takes effect when its branch points to it. Large files go the way of Git LFS.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from caches import make_cache_with_kernel

TOKEN = "hf_owner"
"""Of the one user, who may write to owner/*."""
_PATIENCE_S = 120.0


class Refused(Exception):
    """An answer that is no success, as the Hub words it."""

    def __init__(self, status: HTTPStatus, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass
class Repository:
    """Its commits are folders in `root`, named by their hash."""

    root: Path
    private: bool
    refs: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    """Of the commits, oldest first."""

    def commit(self, branch: str, message: str, change: Callable[[Path], None]) -> str:
        """Make a commit of the state of a branch and a change to its folder."""
        fresh = self.root / "fresh"
        if branch in self.refs:
            shutil.copytree(self.root / self.refs[branch], fresh)
        else:
            fresh.mkdir(parents=True)
        change(fresh)
        oid = hashlib.sha1(f"{self.root} {len(self.messages)} {message}".encode()).hexdigest()
        fresh.rename(self.root / oid)
        self.messages.append(message)
        self.refs[branch] = oid
        return oid

    def at(self, revision: str) -> tuple[str, Path]:
        """Hash and folder of a branch, tag or commit."""
        oid = self.refs.get(revision, revision)
        folder = self.root / oid
        if not re.fullmatch("[0-9a-f]{40}", oid) or not folder.is_dir():
            raise Refused(HTTPStatus.NOT_FOUND, f"Invalid rev id: {revision}", "RevisionNotFound")
        return oid, folder


class StandIn:
    """The server; `url` is its address."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.repositories: dict[str, Repository] = {}
        self.fetched: list[str] = []
        """Files whose content was sent, in order."""
        self.break_off: str | None = None
        """`lfs` or `commit`: a request of that kind is read halfway, and never answered."""
        self.reached = threading.Event()
        """That request has come."""
        self.meanwhile: Callable[[], object] = lambda: None
        """Happens while somebody's commit is on its way."""
        stand_in = self

        class Handler(_Handler):
            hub = stand_in

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """No more answers, as without a network; more than once is no harm."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def files(self, repository: str, revision: str = "main") -> dict[str, bytes]:
        """Content by name."""
        _, folder = self.repositories[repository].at(revision)
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}

    def environment(self, home: Path, token: str | None = TOKEN, **more: str) -> dict[str, str]:
        """Of a process that uses this hub, with its cache in `home`."""
        ours = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
        if token is not None:
            ours["HF_TOKEN"] = token
        inherited = {name: value for name, value in os.environ.items() if name[:3] != "HF_"}
        return inherited | ours | {"XDG_CACHE_HOME": str(make_cache_with_kernel(home))} | more

    def run(
        self, home: Path, *arguments: str, token: str | None = TOKEN, **more: str
    ) -> subprocess.CompletedProcess[str]:
        """Python with those arguments, as a user of this hub."""
        return subprocess.run(
            [sys.executable, *arguments],
            env=self.environment(home, token, **more),
            cwd=self.root,  # whose folders are called otherwise than any repository
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=False,
        )


@contextmanager
def stand_in(root: Path) -> Iterator[StandIn]:
    """A hub that keeps its files in `root`."""
    root.mkdir()
    hub = StandIn(root)
    try:
        yield hub
    finally:
        hub.close()


class _Handler(BaseHTTPRequestHandler):
    hub: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.body = b""
        try:
            address = urlsplit(self.path)
            for method, pattern, answer in _ROUTES:
                found = re.fullmatch(pattern, address.path)
                if found and self.command in method:
                    self._read(answer)
                    self.query = parse_qs(address.query)
                    answer(self, *map(unquote, found.groups()))
                    return
            raise Refused(HTTPStatus.NOT_FOUND, f"the stand-in knows no {self.command} {self.path}")
        except Refused as refusal:
            headers = {"X-Error-Message": str(refusal)}
            if refusal.code is not None:
                headers["X-Error-Code"] = refusal.code
            self._send({"error": str(refusal)}, refusal.status, headers)
        except _BrokenOff:
            self.close_connection = True

    def _read(self, answer: Callable[..., None]) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        breaking = {"lfs": _Handler.put_large, "commit": _Handler.commit}.get(
            self.hub.break_off or ""
        )
        if answer is breaking:
            self.rfile.read(length // 2)
            self.hub.reached.set()
            raise _BrokenOff
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                self.body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            self.body = self.rfile.read(length)

    def _send(
        self,
        content: object,
        status: HTTPStatus = HTTPStatus.OK,
        headers: dict[str, str] | None = None,
    ) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _repository(self, name: str, *, write: bool = False) -> Repository:
        """What may be read, or written, with the token that came."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in ("", TOKEN):
            message = "Invalid credentials in Authorization header"
            raise Refused(HTTPStatus.UNAUTHORIZED, message)
        found = self.hub.repositories.get(name)
        if found is None or (found.private and not token):
            status = HTTPStatus.NOT_FOUND if token else HTTPStatus.UNAUTHORIZED
            raise Refused(status, "Repository not found", "RepoNotFound")
        if write and not token:
            raise Refused(HTTPStatus.UNAUTHORIZED, "Invalid username or password.")
        if write and not name.startswith("owner/"):
            raise Refused(HTTPStatus.FORBIDDEN, "You don't have the rights to write there")
        return found

    def create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}"
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise Refused(HTTPStatus.UNAUTHORIZED, "Invalid username or password.")
        if name in self.hub.repositories:
            self._send({"url": f"{self.hub.url}/{name}"}, HTTPStatus.CONFLICT)
            return
        if asked["organization"] != "owner":
            raise Refused(HTTPStatus.FORBIDDEN, "You don't have the rights to create a model there")
        folder = self.hub.root / "repositories" / name
        repository = Repository(folder, asked.get("visibility") == "private")
        repository.commit(
            "main", "initial commit", lambda it: (it / ".gitattributes").write_text("*.safetensors")
        )
        self.hub.repositories[name] = repository
        self._send({"url": f"{self.hub.url}/{name}"})

    def validate(self) -> None:
        _, front, _ = json.loads(self.body)["content"].split("---\n", 2)
        wrong = not isinstance(yaml.safe_load(front), dict)
        status = HTTPStatus.BAD_REQUEST if wrong else HTTPStatus.OK
        self._send({"errors": [{"message": "no object"}] if wrong else [], "warnings": []}, status)

    def branch(self, name: str, branch: str) -> None:
        repository = self._repository(name, write=True)
        if branch in repository.refs:
            raise Refused(HTTPStatus.CONFLICT, "Reference already exists")
        repository.refs[branch] = repository.refs["main"]
        self._send({})

    def info(self, name: str, revision: str = "main") -> None:
        repository = self._repository(name)
        oid, folder = repository.at(revision)
        siblings = [{"rfilename": path.name} for path in folder.iterdir()]
        told = {"id": name, "sha": oid, "private": repository.private, "siblings": siblings}
        self._send(told)

    def tree(self, name: str, revision: str) -> None:
        _, folder = self._repository(name).at(revision)
        self._send([_entry(path) for path in sorted(folder.iterdir())])

    def preupload(self, name: str, revision: str) -> None:
        _, folder = self._repository(name, write=True).at(revision)
        files = []
        for asked in json.loads(self.body)["files"]:
            path = folder / asked["path"]
            known = {"oid": _upload_id(path)} if path.exists() else {}
            mode = "lfs" if _is_large(path) else "regular"
            files.append({"path": path.name, "uploadMode": mode, "shouldIgnore": False, **known})
        self._send({"files": files})

    def batch(self, name: str) -> None:
        self._repository(name, write=True)
        objects = []
        for asked in json.loads(self.body)["objects"]:
            there = (self.hub.root / asked["oid"]).exists()
            upload = {"upload": {"href": f"{self.hub.url}/lfs/{asked['oid']}"}}
            objects.append(asked if there else {**asked, "actions": upload})
        self._send({"transfer": "basic", "objects": objects})

    def put_large(self, oid: str) -> None:
        assert hashlib.sha256(self.body).hexdigest() == oid
        (self.hub.root / oid).write_bytes(self.body)
        self._send({})

    def commit(self, name: str, branch: str) -> None:
        repository = self._repository(name, write=True)
        self.hub.meanwhile()
        header, *operations = map(json.loads, self.body.splitlines())
        if header["value"].get("parentCommit") != repository.at(branch)[0]:
            raise Refused(HTTPStatus.PRECONDITION_FAILED, "A commit has happened since")

        def change(folder: Path) -> None:
            for operation in operations:
                value = operation["value"]
                path = folder / value["path"]
                if operation["key"] == "deletedFile":
                    path.unlink()
                elif operation["key"] == "lfsFile":
                    shutil.copy(self.hub.root / value["oid"], path)
                else:
                    assert operation["key"] == "file"
                    path.write_bytes(base64.b64decode(value["content"]))

        oid = repository.commit(branch, header["value"]["summary"], change)
        self._send({"commitUrl": f"{self.hub.url}/{name}/commit/{oid}", "commitOid": oid})

    def resolve(self, name: str, revision: str, file: str) -> None:
        oid, folder = self._repository(name).at(revision)
        path = folder / file
        if not path.is_file():
            raise Refused(HTTPStatus.NOT_FOUND, "Entry not found", "EntryNotFound")
        if self.command == "GET":
            self.hub.fetched.append(file)
        headers = {"X-Repo-Commit": oid, "ETag": f'"{_upload_id(path)}"'}
        self._send(path.read_bytes(), headers=headers)


class _BrokenOff(Exception):
    """The connection ends here."""


_NAME = r"([^/]+/[^/]+)"
_ROUTES: list[tuple[tuple[str, ...], str, Callable[..., None]]] = [
    (("POST",), "/api/repos/create", _Handler.create),
    (("POST",), "/api/validate-yaml", _Handler.validate),
    (("POST",), rf"/api/models/{_NAME}/branch/([^/]+)", _Handler.branch),
    (("GET",), rf"/api/models/{_NAME}", _Handler.info),
    (("GET",), rf"/api/models/{_NAME}/revision/([^/]+)", _Handler.info),
    (("GET",), rf"/api/models/{_NAME}/tree/([^/]+)", _Handler.tree),
    (("POST",), rf"/api/models/{_NAME}/preupload/([^/]+)", _Handler.preupload),
    (("POST",), rf"/{_NAME}\.git/info/lfs/objects/batch", _Handler.batch),
    (("PUT",), "/lfs/([0-9a-f]{64})", _Handler.put_large),
    (("POST",), rf"/api/models/{_NAME}/commit/([^/]+)", _Handler.commit),
    (("HEAD", "GET"), rf"/{_NAME}/resolve/([^/]+)/(.+)", _Handler.resolve),
]


def _is_large(path: Path) -> bool:
    return path.suffix in (".safetensors", ".png")


def _upload_id(path: Path) -> str:
    """By which the Hub knows content: SHA-256 of large files, Git's hash of others."""
    content = path.read_bytes()
    if _is_large(path):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _entry(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    entry = {"type": "file", "path": path.name, "size": size, "oid": _upload_id(path)}
    if _is_large(path):
        entry["lfs"] = {"oid": _upload_id(path), "size": size, "pointerSize": 130}
    return entry
