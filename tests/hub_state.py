"""State of the test Hub: repositories with commits, branches, tags and LFS objects, tokens, and planned faults."""

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


LFS_SUFFIXES = (".parquet", ".safetensors", ".bin", ".onnx", ".jpg", ".png")
"""Suffixes of LFS files, whose ETag is their SHA-256."""
FIRST_FILES = {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}
"""Files of the first commit of a repository created over HTTP."""

FaultKind = Literal["unavailable", "cut", "lost"]
FaultPlace = Literal["download", "upload", "commit"]


@dataclass(frozen=True)
class Answer:
    """A response. `cut` ends it half-way; `lost` closes the connection without a response."""

    status: int = 200
    content: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False
    lost: bool = False


class Refusal(Exception):
    """An error response, with the Hub's headers `X-Error-Code` and `X-Error-Message`."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: Mapping[str, str] | None = None):
        super().__init__(message)
        fields = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **(headers or {})}
        self.answer = Answer(status, b"", fields)


@dataclass(frozen=True)
class Request:
    """A request and its status."""

    method: str
    path: str
    range: str | None
    status: int
    sent: int


@dataclass(frozen=True)
class Commit:
    """All files of a repository at a commit."""

    files: Mapping[str, bytes]
    parent: str | None = None
    message: str = ""


@dataclass(frozen=True)
class Tag:
    commit: str
    message: str = ""


@dataclass
class Repository:
    """Commits, branches, tags and LFS objects of a repository."""

    private: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, Tag] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)

    @property
    def refs(self) -> dict[str, str]:
        return {**{name: tag.commit for name, tag in self.tags.items()}, **self.branches}

    def sha(self, revision: str) -> str | None:
        return self.refs.get(revision) or (revision if revision in self.commits else None)

    def add(self, branch: str, files: Mapping[str, bytes], message: str = "") -> str:
        """Add a commit to a branch. Returns its SHA, which depends only on the history."""
        parent = self.branches.get(branch)
        digest = hashlib.sha1(f"{parent} {message}".encode())
        for path, content in sorted(files.items()):
            digest.update(path.encode() + hashlib.sha1(content).digest())
        self.commits[digest.hexdigest()] = Commit(dict(files), parent, message)
        self.branches[branch] = digest.hexdigest()
        return digest.hexdigest()

    def history(self, revision: str) -> list[str]:
        """Return the commits from a revision back to the first."""
        shas, sha = [], self.sha(revision)
        while sha is not None:
            shas.append(sha)
            sha = self.commits[sha].parent
        return shas


@dataclass(frozen=True)
class Token:
    """A token: its user, and read or write access to the repositories of `namespaces`."""

    user: str
    namespaces: tuple[str, ...]
    write: bool


@dataclass
class Fault:
    """Planned fault of the first requests for each resource: a 503, a cut connection, or a lost response."""

    suffix: str
    kind: FaultKind
    on: FaultPlace = "download"
    times: int = 1
    struck: dict[str, int] = field(default_factory=dict)


class HubState:
    """Repositories and tokens in memory. Without registered tokens there is no access control."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.tokens: dict[str, Token] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.interruptions: dict[str, Callable[[], object]] = {}
        self.endpoint = ""
        self.lock = threading.RLock()

    # -----------------------------------------------------------------------------------------------------------------
    # For tests.
    # -----------------------------------------------------------------------------------------------------------------
    def commit(
        self,
        repo_id: str,
        files: Mapping[str, bytes],
        *,
        repo_type: str = "dataset",
        branch: str = "main",
        private: bool = False,
    ) -> str:
        """Commit `files` as all files of a branch; `private` applies to a new repository. Returns the SHA."""
        with self.lock:
            repository = self.repositories.setdefault((repo_type, repo_id), Repository(private))
            return repository.add(branch, files)

    def tag(self, repo_id: str, tag: str, commit: str, *, repo_type: str = "dataset") -> None:
        self.repositories[repo_type, repo_id].tags[tag] = Tag(commit)

    def files(self, repo_id: str, revision: str = "main", *, repo_type: str = "dataset") -> Mapping[str, bytes]:
        """Return the files of a revision."""
        repository = self.repositories[repo_type, repo_id]
        return repository.commits[repository.refs.get(revision, revision)].files

    def add_token(self, token: str, *, write: bool, namespaces: Sequence[str]) -> None:
        """Register a token of the user `namespaces[0]`, a member of the organisations after it. From then on writing
        requires a token, and unknown tokens are refused."""
        self.tokens[token] = Token(namespaces[0], tuple(namespaces), write)

    def fail_once(self, suffix: str, kind: FaultKind, *, on: FaultPlace = "download") -> Fault:
        """Plan one fault for each resource, see [`fail`]."""
        return self.fail(suffix, kind, on=on)

    def fail(self, suffix: str, kind: FaultKind, *, on: FaultPlace, times: int = 1) -> Fault:
        """Plan faults.

        Args:
            suffix (`str`): suffix of the affected resources: `repository/path` for downloads, `repository/digest` for
                LFS uploads, `repository` for commits.
            kind (`str`): `"unavailable"` is a 503; `"cut"` closes the connection half-way, without an effect;
                `"lost"` (commits only) takes effect, but closes the connection without a response.
            times (`int`): number of faults for each resource. The client tries six times.

        Returns:
            `Fault`: counts in `struck` how often each resource was affected.
        """
        self.faults.append(Fault(suffix, kind, on, times))
        return self.faults[-1]

    def before_commit(self, repo_id: str, action: Callable[[], object]) -> None:
        """Run `action` once, after the next commit to a repository was received and before it is processed."""
        self.interruptions[repo_id] = action

    def contents_sent(self, repo_id: str) -> list[Request]:
        """Return the downloads of a repository's files."""
        return [
            request for request in self.requests if request.method == "GET" and f"{repo_id}/resolve/" in request.path
        ]

    def writes(self, repo_id: str = "") -> list[Request]:
        """Return the uploads and commits to a repository, or by default to any."""
        return [
            request
            for request in self.requests
            if repo_id in request.path and (request.method == "PUT" or "/commit/" in request.path)
        ]

    # -----------------------------------------------------------------------------------------------------------------
    # For the server.
    # -----------------------------------------------------------------------------------------------------------------
    def due_fault(self, on: FaultPlace, thing: str) -> FaultKind | None:
        with self.lock:
            for fault in self.faults:
                if fault.on == on and thing.endswith(fault.suffix) and fault.struck.get(thing, 0) < fault.times:
                    fault.struck[thing] = fault.struck.get(thing, 0) + 1
                    return fault.kind
        return None

    def user(self, token: str | None) -> Token | None:
        """Return the registered token.

        Raises:
            Refusal: 401 if tokens are registered and this one is not.
        """
        if token is None or not self.tokens:
            return None
        if token not in self.tokens:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return self.tokens[token]

    def find(self, repo_type: str, repo_id: str, token: str | None) -> Repository:
        """Return a repository that a token may read.

        Raises:
            Refusal: if there is none, or it is private and not accessible.
        """
        user = self.user(token)
        repository = self.repositories.get((repo_type, repo_id))
        hidden = repository is not None and repository.private and self.tokens and not _is_of(user, repo_id)
        if repository is None or hidden:
            status, message = (404, "Repository not found") if token else (401, "Invalid username or password.")
            raise Refusal(status, message, "RepoNotFound")
        return repository

    def find_to_write(self, repo_type: str, repo_id: str, token: str | None) -> Repository:
        """Return a repository that a token may write to.

        Raises:
            Refusal: 401 without a token, 403 if the token has no write access.
        """
        repository = self.find(repo_type, repo_id, token)
        self.check_writer(repo_id, token)
        return repository

    def check_writer(self, repo_id: str, token: str | None) -> Token | None:
        user = self.user(token)
        if self.tokens and user is None:
            raise Refusal(401, "Invalid username or password.")
        if user is not None and not (user.write and _is_of(user, repo_id)):
            raise Refusal(403, f"the token of {user.user} does not have the rights to write to {repo_id}")
        return user


def _is_of(user: Token | None, repo_id: str) -> bool:
    return user is not None and repo_id.partition("/")[0] in user.namespaces


def is_large(path: str, size: int) -> bool:
    """Whether the Hub stores a file with LFS. Empty files are never."""
    return size > 0 and (path.endswith(LFS_SUFFIXES) or size > 10_000_000)


def etag(path: str, content: bytes) -> str:
    """The ETag of a file: its SHA-256 for LFS files, else its git blob id."""
    if is_large(path, len(content)):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def entries(files: Mapping[str, bytes], folder: str, recursive: bool) -> list[dict[str, Any]]:
    """List files and folders below a folder in the Hub's format."""
    prefix = f"{folder}/" if folder else ""
    found: dict[str, dict[str, Any]] = {}
    for path, content in sorted(files.items()):
        if not path.startswith(prefix):
            continue
        parts = path.removeprefix(prefix).split("/")
        for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
            above = prefix + "/".join(parts[:depth])
            oid = hashlib.sha1(above.encode()).hexdigest()
            found[above] = {"type": "directory", "path": above, "oid": oid, "size": 0}
        if recursive or len(parts) == 1:
            name = etag(path, content)
            found[path] = {"type": "file", "path": path, "oid": name, "size": len(content)}
            if is_large(path, len(content)):
                found[path]["lfs"] = {"oid": name, "size": len(content), "pointerSize": 134}
    return list(found.values())
