"""A Hub on 127.0.0.1, good enough for the real `huggingface_hub` and `datasets` clients to read from.

```python
with HubServer() as hub:
    commit = hub.commit("me/webperson", {"README.md": b"...", "data/train-00000-of-00001.parquet": b"..."})
    hub.tag("me/webperson", "v1", commit)
    hub.fail_once(".parquet", "unavailable")
    subprocess.run([...], env=os.environ | hub.environment(home))
    hub.requests  # what was asked, and how it was answered
```

A client reads its endpoint when it is imported, so it is to run in a process of its own, with `environment`.
"""

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit


LFS_SUFFIXES = (".parquet", ".safetensors", ".bin", ".jpg", ".png")
"""Files that the Hub would keep outside git: their ETag is their SHA-256."""


@dataclass(frozen=True)
class Request:
    """One request and its answer."""

    method: str
    path: str
    range: str | None
    status: int
    sent: int


@dataclass
class Repository:
    """All commits of a repository, and what its branches and tags stand for."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def sha(self, revision: str) -> str | None:
        return self.refs.get(revision) or (revision if revision in self.commits else None)


@dataclass
class Fault:
    """The first request for the content of each file goes wrong: answered with 503, or cut off half-way."""

    suffix: str
    kind: Literal["unavailable", "cut"]
    struck: set[str] = field(default_factory=set)


class HubServer:
    """Repositories in memory, served from when it is entered to when it is left."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.hub = self  # type: ignore[attr-defined]
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self, home: Path) -> dict[str, str]:
        """What a client's process needs to talk to this server and keep its caches in `home`."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def commit(
        self, repo_id: str, files: Mapping[str, bytes], *, repo_type: str = "dataset", branch: str = "main"
    ) -> str:
        """Make `files` all that a branch holds. Returns: the commit, the same for the same history."""
        repository = self.repositories.setdefault((repo_type, repo_id), Repository())
        digest = hashlib.sha1(f"{repo_type} {repo_id} {repository.refs.get(branch)}".encode())
        for path, content in sorted(files.items()):
            digest.update(path.encode() + hashlib.sha1(content).digest())
        repository.commits[digest.hexdigest()] = dict(files)
        repository.refs[branch] = digest.hexdigest()
        return digest.hexdigest()

    def tag(self, repo_id: str, tag: str, commit: str, *, repo_type: str = "dataset") -> None:
        self.repositories[repo_type, repo_id].refs[tag] = commit

    def fail_once(self, suffix: str, kind: Literal["unavailable", "cut"]) -> Fault:
        """Plan a fault for each file whose `repository/path` ends so. Returns: it, which tells where it struck."""
        self.faults.append(Fault(suffix, kind))
        return self.faults[-1]

    def contents_sent(self, repo_id: str) -> list[Request]:
        """Requests for the content of a repository's files."""
        return [
            request for request in self.requests if request.method == "GET" and f"{repo_id}/resolve/" in request.path
        ]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    _API = re.compile(r"/api/(model|dataset|space)s/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?")
    _FILE = re.compile(r"/(?:(dataset|space)s/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")

    @property
    def hub(self) -> HubServer:
        return self.server.hub  # type: ignore[attr-defined, no-any-return]

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        # A branch named `refs/pr/1` comes with its slashes quoted.
        path = urlsplit(self.path).path
        if match := self._API.fullmatch(path):
            repo_type, repo_id, action, revision, inside = match.groups()
            self._answer_api(repo_type, repo_id, action, unquote(revision or "main"), unquote(inside or ""), body)
        elif match := self._FILE.fullmatch(path):
            repo_type, repo_id, revision, inside = match.groups()
            self._answer_file(repo_type or "model", repo_id, unquote(revision), unquote(inside))
        else:
            self._refuse("EntryNotFound", f"this server knows no {path}")

    do_GET = do_HEAD = do_POST = _answer

    def _answer_api(
        self, repo_type: str, repo_id: str, action: str | None, revision: str, inside: str, body: bytes
    ) -> None:
        if (found := self._find(repo_type, repo_id, revision)) is None:
            return
        sha, files = found
        query = parse_qs(urlsplit(self.path).query)
        if action == "tree":
            recursive = query.get("recursive", ["false"])[0].lower() == "true"
            entries = _entries(files, inside.strip("/"), recursive)
            if inside and not entries:
                self._refuse("EntryNotFound", f"{inside} does not exist in {repo_id} at {revision}")
            else:
                self._reply_json(entries)
        elif action == "paths-info":
            everything = {entry["path"]: entry for entry in _entries(files, "", recursive=True)}
            paths = parse_qs(body.decode()).get("paths", [])
            self._reply_json([everything[path] for path in paths if path in everything])
        else:
            self._reply_json(
                {
                    "id": repo_id,
                    "sha": sha,
                    "lastModified": "2025-01-01T00:00:00.000Z",
                    "private": False,
                    "gated": False,
                    "disabled": False,
                    "tags": [],
                    "siblings": [{"rfilename": path} for path in sorted(files)],
                }
            )

    def _answer_file(self, repo_type: str, repo_id: str, revision: str, inside: str) -> None:
        if (found := self._find(repo_type, repo_id, revision)) is None:
            return
        sha, files = found
        if inside not in files:
            self._refuse(
                "EntryNotFound", f"{inside} does not exist in {repo_id} at {revision}", {"X-Repo-Commit": sha}
            )
            return
        content = files[inside]
        fault = self._due_fault(f"{repo_id}/{inside}") if self.command == "GET" else None
        if fault == "unavailable":
            self._reply(503, b"try again", {})
            return
        headers = {"ETag": f'"{_etag(inside, content)}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        if inside.endswith(LFS_SUFFIXES):
            headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(len(content))}
        status, part = 200, content
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            start, stop = int(match[1]), min(int(match[2] or len(content)) + 1, len(content))
            if start >= len(content):
                self._reply(416, b"", {"Content-Range": f"bytes */{len(content)}"})
                return
            status, part = 206, content[start:stop]
            headers["Content-Range"] = f"bytes {start}-{start + len(part) - 1}/{len(content)}"
        self._reply(status, part, headers, cut=fault == "cut")

    def _due_fault(self, file: str) -> str | None:
        with self.hub.lock:
            for fault in self.hub.faults:
                if file.endswith(fault.suffix) and file not in fault.struck:
                    fault.struck.add(file)
                    return fault.kind
        return None

    def _find(self, repo_type: str, repo_id: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        repository = self.hub.repositories.get((repo_type, repo_id))
        if repository is None:
            self._refuse("RepoNotFound", f"{repo_type} {repo_id} does not exist")
            return None
        sha = repository.sha(revision)
        if sha is None:
            self._refuse("RevisionNotFound", f"{repo_id} has no revision {revision}")
            return None
        return sha, repository.commits[sha]

    def _refuse(self, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        self._reply(404, b"", {"X-Error-Code": code, "X-Error-Message": message, **(headers or {})})

    def _reply_json(self, value: Any) -> None:
        self._reply(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _reply(self, status: int, content: bytes, headers: Mapping[str, str], *, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        sent = b"" if self.command == "HEAD" else content[: len(content) // 2] if cut else content
        # Before the content: whoever has read it may look at the log.
        request = Request(self.command, unquote(self.path), self.headers.get("Range"), status, len(sent))
        self.hub.requests.append(request)
        self.wfile.write(sent)
        self.close_connection = self.close_connection or cut

    def log_message(self, *_: object) -> None:
        pass  # `HubServer.requests` is the log


def _etag(path: str, content: bytes) -> str:
    """The name of a file's content: its SHA-256 for large files, as git names it for others."""
    if path.endswith(LFS_SUFFIXES):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _entries(files: Mapping[str, bytes], folder: str, recursive: bool) -> list[dict[str, Any]]:
    """Files and folders below a folder, as the Hub lists them."""
    prefix = f"{folder}/" if folder else ""
    entries: dict[str, dict[str, Any]] = {}
    for path, content in sorted(files.items()):
        if not path.startswith(prefix):
            continue
        parts = path.removeprefix(prefix).split("/")
        for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
            above = prefix + "/".join(parts[:depth])
            oid = hashlib.sha1(above.encode()).hexdigest()
            entries[above] = {"type": "directory", "path": above, "oid": oid, "size": 0}
        if recursive or len(parts) == 1:
            etag = _etag(path, content)
            entries[path] = {"type": "file", "path": path, "oid": etag, "size": len(content)}
            if path.endswith(LFS_SUFFIXES):
                entries[path]["lfs"] = {"oid": etag, "size": len(content), "pointerSize": 134}
    return list(entries.values())
