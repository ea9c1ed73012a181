"""A Hub on 127.0.0.1 for tests with the real clients (`huggingface_hub`, `datasets`, `transformers`).

```python
with HubServer() as hub:
    commit = hub.commit("me/webperson", {"README.md": b"...", "data/train-00000-of-00001.parquet": b"..."})
    hub.tag("me/webperson", "v1", commit)
    hub.fail_once(".parquet", "unavailable")
    hub.add_token("hf_of_mine", write=True, namespaces=["me"])
    subprocess.run([...], env=os.environ | hub.environment(home, token="hf_of_mine"))
    hub.requests  # log of requests and statuses
    hub.files("me/model", "v1", repo_type="model")  # files that were pushed
```

Clients read the endpoint when they are imported, so they must run in a subprocess with `environment`. `hub_state.py`
contains the repositories and tokens, `hub_uploads.py` the write requests, `hub_cards.py` the validation of cards.
"""

import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub_state import Answer, HubState, Refusal, Request, entries, etag, is_large
from tests.hub_uploads import WRITING, Call, json_answer, whoami


class HubServer(HubState):
    """Serves repositories in memory during the `with` block."""

    def __init__(self) -> None:
        super().__init__()
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

    def environment(self, home: Path, token: str = "") -> dict[str, str]:
        """Environment variables of a client that uses this server and caches below `home`."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_TOKEN": token,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }


# ---------------------------------------------------------------------------------------------------------------------
# Reading.
# ---------------------------------------------------------------------------------------------------------------------
def _describe(hub: HubState, call: Call, repo_type: str, repo_id: str, revision: str | None) -> Answer:
    repository = hub.find(repo_type, repo_id, call.token)
    sha = _sha(hub, call, repo_type, repo_id, revision or "main")
    return json_answer(
        {
            "id": repo_id,
            "sha": sha,
            "lastModified": "2025-01-01T00:00:00.000Z",
            "private": repository.private,
            "gated": False,
            "disabled": False,
            "tags": [],
            "siblings": [{"rfilename": path} for path in sorted(repository.commits[sha].files)],
        }
    )


def _tree(hub: HubState, call: Call, repo_type: str, repo_id: str, revision: str, inside: str | None) -> Answer:
    sha = _sha(hub, call, repo_type, repo_id, revision)
    files = hub.repositories[repo_type, repo_id].commits[sha].files
    recursive = call.query.get("recursive", ["false"])[0].lower() == "true"
    found = entries(files, (inside or "").strip("/"), recursive)
    if inside and not found:
        raise Refusal(404, f"{inside} does not exist in {repo_id} at {revision}", "EntryNotFound")
    return json_answer(found)


def _paths_info(hub: HubState, call: Call, repo_type: str, repo_id: str, revision: str) -> Answer:
    sha = _sha(hub, call, repo_type, repo_id, revision)
    files = hub.repositories[repo_type, repo_id].commits[sha].files
    everything = {entry["path"]: entry for entry in entries(files, "", recursive=True)}
    paths = parse_qs(call.body.decode()).get("paths", [])
    return json_answer([everything[path] for path in paths if path in everything])


def _refs(hub: HubState, call: Call, repo_type: str, repo_id: str) -> Answer:
    repository = hub.find(repo_type, repo_id, call.token)
    branches = [
        {"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha} for name, sha in repository.branches.items()
    ]
    tags = [
        {"name": name, "ref": f"refs/tags/{name}", "targetCommit": tag.commit} for name, tag in repository.tags.items()
    ]
    return json_answer({"branches": branches, "converts": [], "tags": tags, "pullRequests": []})


def _content(hub: HubState, call: Call, repo_type: str | None, repo_id: str, revision: str, inside: str) -> Answer:
    sha = _sha(hub, call, repo_type or "model", repo_id, revision)
    files = hub.repositories[repo_type or "model", repo_id].commits[sha].files
    if inside not in files:
        message = f"{inside} does not exist in {repo_id} at {revision}"
        raise Refusal(404, message, "EntryNotFound", {"X-Repo-Commit": sha})
    content = files[inside]
    fault = hub.due_fault("download", f"{repo_id}/{inside}") if call.method == "GET" else None
    if fault == "unavailable":
        return Answer(503, b"try again")
    headers = {"ETag": f'"{etag(inside, content)}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
    if is_large(inside, len(content)):
        headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(len(content))}
    if match := re.fullmatch(r"bytes=(\d+)-(\d*)", call.range or ""):
        start, stop = int(match[1]), min(int(match[2] or len(content)) + 1, len(content))
        if start >= len(content):
            return Answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        part = content[start:stop]
        headers["Content-Range"] = f"bytes {start}-{start + len(part) - 1}/{len(content)}"
        return Answer(206, part, headers, cut=fault == "cut")
    return Answer(200, content, headers, cut=fault == "cut")


def _sha(hub: HubState, call: Call, repo_type: str, repo_id: str, revision: str) -> str:
    sha = hub.find(repo_type, repo_id, call.token).sha(revision)
    if sha is None:
        raise Refusal(404, f"{repo_id} has no revision {revision}", "RevisionNotFound")
    return sha


_REPO = r"/api/(model|dataset|space)s/([^/]+/[^/]+)"
_ROUTES: list[tuple[str, str, Callable[..., Answer]]] = [
    ("GET", rf"{_REPO}(?:/revision/([^/]+))?", _describe),
    ("GET", rf"{_REPO}/tree/([^/]+)(?:/(.*))?", _tree),
    ("POST", rf"{_REPO}/paths-info/([^/]+)", _paths_info),
    ("GET", rf"{_REPO}/refs", _refs),
    ("GET", r"/(?:(dataset|space)s/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", _content),
    ("GET", r"/api/whoami-v2", whoami),
    *WRITING,
]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> HubServer:
        return self.server.hub  # type: ignore[attr-defined, no-any-return]

    def _serve(self) -> None:
        url = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        upload = re.fullmatch(r"/upload/(?:model|dataset|space)/([^/]+/[^/]+/\w+)", url.path)
        if self.command == "PUT" and upload and (fault := self.hub.due_fault("upload", upload[1])):
            self.rfile.read(length // 2 if fault == "cut" else length)
            self._reply(Answer(503, b"try again", lost=fault == "cut"))
            return
        authorization = self.headers.get("Authorization")
        call = Call(
            self.command,
            parse_qs(url.query),
            self.rfile.read(length),
            authorization.removeprefix("Bearer ") if authorization else None,
            self.headers.get("Range"),
        )
        try:
            self._reply(self._answer(url.path, call))
        except Refusal as refusal:
            self._reply(refusal.answer)

    do_GET = do_HEAD = do_POST = do_PUT = _serve

    def _answer(self, path: str, call: Call) -> Answer:
        method = "GET" if call.method == "HEAD" else call.method
        for verb, pattern, function in _ROUTES:
            if method == verb and (match := re.fullmatch(pattern, path)):
                # Slashes in names such as `refs/pr/1` are quoted.
                arguments: list[Any] = [group and unquote(group) for group in match.groups()]
                return function(self.hub, call, *arguments)
        raise Refusal(404, f"this server does not implement {call.method} {path}", "EntryNotFound")

    def _reply(self, answer: Answer) -> None:
        content = b"" if self.command == "HEAD" or answer.lost else answer.content
        sent = content[: len(content) // 2] if answer.cut else content
        # Logged before the content is sent, because a test may read the log right after.
        self.hub.requests.append(
            Request(self.command, unquote(self.path), self.headers.get("Range"), answer.status, len(sent))
        )
        self.close_connection = self.close_connection or answer.cut or answer.lost
        if answer.lost:
            return
        self.send_response(answer.status)
        for name, value in {"Content-Length": str(len(answer.content)), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *_: object) -> None:
        pass  # `HubServer.requests` is the log
