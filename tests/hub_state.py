"""What a Hub holds: repositories with commits, branches, tags and large files, users' tokens, and planned faults."""

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


LFS_SUFFIXES = (".parquet", ".safetensors", ".bin", ".onnx", ".jpg", ".png")
"""Files that the Hub would keep outside git: their ETag is their SHA-256."""
FIRST_FILES = {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}
"""What the first commit of a repository that was made over HTTP holds."""

FaultKind = Literal["unavailable", "cut", "lost"]
FaultPlace = Literal["download", "upload", "commit"]


@dataclass(frozen=True)
class Answer:
    """What the server says. `cut` ends it half-way; `lost` ends the connection without a word."""

    status: int = 200
    content: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False
    lost: bool = False


class Refusal(Exception):
    """What the server does not do, in the terms of the Hub: status, `X-Error-Code`, `X-Error-Message`."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: Mapping[str, str] | None = None):
        super().__init__(message)
        said = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **(headers or {})}
        self.answer = Answer(status, b"", said)


@dataclass(frozen=True)
class Request:
    """One request and its answer."""

    method: str
    path: str
    range: str | None
    status: int
    sent: int


@dataclass(frozen=True)
class Commit:
    """All files of a repository after a change. Nobody changes it."""

    files: Mapping[str, bytes]
    parent: str | None = None
    message: str = ""
    author: str = "somebody"


@dataclass(frozen=True)
class Tag:
    commit: str
    message: str = ""


@dataclass
class Repository:
    """All commits of a repository, what its branches and tags stand for, and the large files sent to it."""

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

    def add(self, branch: str, files: Mapping[str, bytes], message: str = "", author: str = "somebody") -> str:
        """Move a branch to a new commit. Returns: the commit, the same for the same history."""
        parent = self.branches.get(branch)
        digest = hashlib.sha1(f"{parent} {message}".encode())
        for path, content in sorted(files.items()):
            digest.update(path.encode() + hashlib.sha1(content).digest())
        self.commits[digest.hexdigest()] = Commit(dict(files), parent, message, author)
        self.branches[branch] = digest.hexdigest()
        return digest.hexdigest()

    def history(self, revision: str) -> list[str]:
        """Commits from a revision back to the first."""
        shas, sha = [], self.sha(revision)
        while sha is not None:
            shas.append(sha)
            sha = self.commits[sha].parent
        return shas


@dataclass(frozen=True)
class Token:
    """Who holds a token, and what it opens: all repositories of `namespaces`, for writing too or not."""

    user: str
    namespaces: tuple[str, ...]
    write: bool


@dataclass
class Fault:
    """The first requests for each thing go wrong: answered with 503, cut off half-way, or done but never answered."""

    suffix: str
    kind: FaultKind
    on: FaultPlace = "download"
    times: int = 1
    struck: dict[str, int] = field(default_factory=dict)


class HubState:
    """Repositories in memory, and who may do what with them. With no token registered, everybody may do all."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.tokens: dict[str, Token] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.interruptions: dict[str, Callable[[], object]] = {}
        self.endpoint = ""
        self.part_size: int | None = None
        self.parts: dict[tuple[str, int], bytes] = {}
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
        """Make `files` all that a branch holds; `private` counts where the repository is new. Returns: the commit."""
        with self.lock:
            repository = self.repositories.setdefault((repo_type, repo_id), Repository(private))
            return repository.add(branch, files)

    def tag(self, repo_id: str, tag: str, commit: str, *, repo_type: str = "dataset") -> None:
        self.repositories[repo_type, repo_id].tags[tag] = Tag(commit)

    def files(self, repo_id: str, revision: str = "main", *, repo_type: str = "dataset") -> Mapping[str, bytes]:
        """What a revision holds."""
        repository = self.repositories[repo_type, repo_id]
        return repository.commits[repository.refs.get(revision, revision)].files

    def add_token(self, token: str, *, write: bool, namespaces: Sequence[str]) -> None:
        """Register a token of the user `namespaces[0]`, a member of the organisations after it. From the first on,
        nobody writes without a token, and an unknown one is refused whatever it asks for."""
        self.tokens[token] = Token(namespaces[0], tuple(namespaces), write)

    def fail_once(self, suffix: str, kind: FaultKind, *, on: FaultPlace = "download") -> Fault:
        """Plan one fault for each thing. See [`fail`]."""
        return self.fail(suffix, kind, on=on)

    def fail(self, suffix: str, kind: FaultKind, *, on: FaultPlace, times: int = 1) -> Fault:
        """Plan faults.

        Args:
            suffix (`str`): of what they strike: of `repository/path` in downloads, of `repository/digest` in uploads
                of large files, of `repository` in commits.
            kind (`str`): `"unavailable"` is a 503; `"cut"` ends the connection in the middle, before anything is
                done; `"lost"` (of commits) does it and ends the connection before the answer.
            times (`int`): how often for each thing. The client tries six times.

        Returns:
            `Fault`: tells in `struck` where it struck.
        """
        self.faults.append(Fault(suffix, kind, on, times))
        return self.faults[-1]

    def before_commit(self, repo_id: str, action: Callable[[], object]) -> None:
        """Plan what happens once, after the next commit to a repository has arrived and before it is looked at."""
        self.interruptions[repo_id] = action

    def contents_sent(self, repo_id: str) -> list[Request]:
        """Requests for the content of a repository's files."""
        return [
            request for request in self.requests if request.method == "GET" and f"{repo_id}/resolve/" in request.path
        ]

    def writes(self, repo_id: str = "") -> list[Request]:
        """Requests that sent content to a repository, or to any: objects, their parts, and commits."""
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
        """Who asks.

        Raises:
            Refusal: with 401, if tokens are registered and this is none of them.
        """
        if token is None or not self.tokens:
            return None
        if token not in self.tokens:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return self.tokens[token]

    def find(self, repo_type: str, repo_id: str, token: str | None) -> Repository:
        """A repository that the holder of a token may read.

        Raises:
            Refusal: as if there were none, if it is private and not theirs.
        """
        user = self.user(token)
        repository = self.repositories.get((repo_type, repo_id))
        hidden = repository is not None and repository.private and self.tokens and not _is_of(user, repo_id)
        if repository is None or hidden:
            # Whoever does not say who they are is not told whether it exists.
            status, message = (404, "Repository not found") if token else (401, "Invalid username or password.")
            raise Refusal(status, message, "RepoNotFound")
        return repository

    def find_to_write(self, repo_type: str, repo_id: str, token: str | None) -> Repository:
        """A repository that the holder of a token may change.

        Raises:
            Refusal: with 401 without a token, with 403 if it does not open this.
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
    """Whether the Hub keeps a file outside git. Empty ones never: its storage has none."""
    return size > 0 and (path.endswith(LFS_SUFFIXES) or size > 10_000_000)


def etag(path: str, content: bytes) -> str:
    """The name of a file's content: its SHA-256 for large files, as git names it for others."""
    if is_large(path, len(content)):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def entries(files: Mapping[str, bytes], folder: str, recursive: bool) -> list[dict[str, Any]]:
    """Files and folders below a folder, as the Hub lists them."""
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
