"""Push a folder to the Hub in one commit, which also deletes the files that the folder no longer contains.

Readers of the repository see either the old files or the new ones. A failed push leaves the old ones.
"""

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoCard, get_token
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.utils import filter_repo_objects, validate_repo_id


RepoType = Literal["model", "dataset"]

_MAIN = "main"
_GITATTRIBUTES = ".gitattributes"
"""Written by the Hub, never deleted by a push: it lists the files that are stored outside git."""
EVAL_RESULTS = ".eval_results"
"""Folder of evaluation results, the only hidden one that is pushed."""
_IGNORE_NOTHING = "# upload every file\n"
"""Replaces the repository's `.gitignore`, with which the client would silently skip files."""


@dataclass(frozen=True)
class PushReport:
    """Result of a push.

    Attributes:
        url (`str`): URL of the commit.
        commit (`str`): SHA of the commit.
        revision (`str`): branch of the commit.
        tag (`str`, *optional*): tag of the commit.
        files (`int`): number of files in the folder.
        deleted (`int`): number of files deleted from the branch.
    """

    url: str
    commit: str
    revision: str
    tag: str | None
    files: int
    deleted: int


@dataclass(frozen=True)
class _Repository:
    """State of a repository before a push."""

    private: bool
    branches: frozenset[str]
    tags: frozenset[str]


def push_folder(
    folder: Path,
    repo_id: str,
    *,
    repo_type: RepoType,
    message: str,
    replace: Sequence[str] = ("*",),
    revision: str | None = None,
    tag: str | None = None,
    private: bool = False,
) -> PushReport:
    """Upload a folder to the Hub in one commit. A missing repository or branch is created.

    Hidden files and folders, such as `.cache`, are skipped with a warning, except `.eval_results`. Symbolic links are
    refused.

    Args:
        folder (`Path`): folder to push.
        repo_id (`str`): `namespace/name`.
        repo_type (`"model"` or `"dataset"`): type of the repository.
        message (`str`): message of the commit and of the tag.
        replace (`Sequence[str]`, *optional*, defaults to `("*",)`): patterns of files to delete from the branch if
            they are missing in the folder; `*` also matches `/`. `.gitattributes` is never deleted.
        revision (`str`, *optional*): branch; by default `main`.
        tag (`str`, *optional*): tag of the commit.
        private (`bool`): create the repository as private, and refuse an existing public one.

    Returns:
        [`PushReport`].

    Raises:
        FileNotFoundError: if the folder is missing or empty.
        ValueError: if a name is malformed, the tag exists, the repository is public but must be private, a file is a
            link, or the Hub rejects the card. Nothing has been uploaded.
        OSError: if the Hub cannot be reached, refuses, or received another commit meanwhile. The branch is unchanged,
            unless only the tag failed, which the message then says, or the response to the commit was lost.
    """
    branch = revision or _MAIN
    _check_names(repo_id, branch, tag)
    paths = _files_of(folder)
    api, state = HfApi(), f"{folder} is complete"
    with _hub_errors(f"{repo_id} was not pushed", state):
        repository = _find(api, repo_id, repo_type)
    _check_repository(repo_id, repository, branch, tag, private)
    if "README.md" in paths:
        _check_card(folder / "README.md", repo_id, repo_type)
    with _hub_errors(f"{repo_id} was not pushed", state):
        if repository is None:
            api.create_repo(repo_id, repo_type=repo_type, private=private or None)
        if branch != _MAIN and (repository is None or branch not in repository.branches):
            api.create_branch(repo_id, repo_type=repo_type, branch=branch, exist_ok=True)
        parent = api.repo_info(repo_id, repo_type=repo_type, revision=branch).sha
        existing = set(api.list_repo_files(repo_id, repo_type=repo_type, revision=parent))
        stale = sorted(filter_repo_objects(existing - {*paths, _GITATTRIBUTES}, allow_patterns=list(replace)))
        additions = [CommitOperationAdd(path, str(folder / path)) for path in paths]
        api.preupload_lfs_files(
            repo_id,
            additions,
            repo_type=repo_type,
            revision=branch,
            free_memory=False,
            gitignore_content=_IGNORE_NOTHING,
        )
        # Not `HfApi.upload_folder`, which makes several commits if hf_xet is installed.
        commit = api.create_commit(
            repo_id,
            [*(CommitOperationDelete(path, is_folder=False) for path in stale), *additions],
            commit_message=message,
            repo_type=repo_type,
            revision=branch,
            parent_commit=parent,
        )
    if tag is not None:
        with _hub_errors(f"{repo_id} was pushed as {commit.oid}, but not tagged {tag}", state):
            api.create_tag(repo_id, repo_type=repo_type, tag=tag, tag_message=message, revision=commit.oid)
    return PushReport(str(commit.commit_url), commit.oid, branch, tag, len(paths), len(stale))


def check_push_target(
    repo_id: str, *, repo_type: RepoType, revision: str | None = None, tag: str | None = None, private: bool = False
) -> None:
    """Check whether a push could succeed, before work that may take days. Changes nothing on the Hub.

    Args:
        repo_id, repo_type, revision, tag, private: as in [`push_folder`].

    Raises:
        ValueError: if a name is malformed, there is no token with write access to the namespace, the tag exists, or
            the repository is public but must be private.
        OSError: if the Hub cannot be reached or does not know the token.
    """
    branch = revision or _MAIN
    _check_names(repo_id, branch, tag)
    if not get_token():
        raise ValueError(f"there is no token to push {repo_id} with: run `hf auth login`, or set HF_TOKEN")
    api = HfApi()
    with _hub_errors(f"{repo_id} cannot be pushed to", "nothing has been changed"):
        user = api.whoami()
        repository = _find(api, repo_id, repo_type)
    role = user.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise ValueError(f"the token of {user['name']} is read-only: use one with write access to {repo_id}")
    namespaces = [user["name"], *(organisation["name"] for organisation in user.get("orgs", []))]
    # The namespaces of a fine-grained token are known only to the Hub.
    if repository is None and role == "write" and repo_id.partition("/")[0] not in namespaces:
        raise ValueError(f"the token cannot create {repo_id}: it has write access to {', '.join(namespaces)}")
    _check_repository(repo_id, repository, branch, tag, private)


def check_repo_id(name: str, what: str = "where to publish") -> None:
    """Check that a name is a repository on the Hub, with its namespace.

    Args:
        name (`str`): the name.
        what (`str`): what it names, for the error message.

    Raises:
        ValueError: naming it.
    """
    validate_repo_id(name)
    if "/" not in name:
        raise ValueError(f"{what}: {name!r} must be a name on the Hub, namespace/name")


def _check_names(repo_id: str, branch: str, tag: str | None) -> None:
    check_repo_id(repo_id)
    for kind, name in (("branch", branch), ("tag", tag)):
        if name is None:
            continue
        # Stricter than git.
        if not re.fullmatch(r"\w[\w.+-]*(/\w[\w.+-]*)*(?<!\.)(?<!\.lock)", name, re.ASCII):
            raise ValueError(f"{name!r} is not a valid {kind} name: use letters, digits, and . _ - + / between them")
        if ".." in name or re.fullmatch("[0-9a-f]{40}", name):
            raise ValueError(f"{name!r} is not a valid {kind} name: git would read it as a commit or a range")


def _find(api: HfApi, repo_id: str, repo_type: RepoType) -> _Repository | None:
    """Return the state of a repository, or `None` if there is none that the token may read."""
    try:
        info = api.repo_info(repo_id, repo_type=repo_type)
    except RepositoryNotFoundError:
        return None
    refs = api.list_repo_refs(repo_id, repo_type=repo_type)
    branches, tags = (frozenset(ref.name for ref in found) for found in (refs.branches, refs.tags))
    return _Repository(bool(info.private), branches, tags)


def _check_repository(
    repo_id: str, repository: _Repository | None, branch: str, tag: str | None, private: bool
) -> None:
    if repository is None:
        return
    if private and not repository.private:
        raise ValueError(
            f"{repo_id} is public, but a private repository was asked for: make it private in its settings on the "
            "Hub, or push to another name"
        )
    if tag in repository.tags:
        raise ValueError(f"{repo_id} already has a tag {tag}, which others may rely on: choose another")
    if branch in repository.tags:
        raise ValueError(f"{branch} is a tag of {repo_id}, which cannot be pushed to: name a branch")


def _check_card(path: Path, repo_id: str, repo_type: RepoType) -> None:
    """Let the Hub validate a card before large files are uploaded."""
    try:
        card = RepoCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=True)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path} has a header that cannot be read: {_one_line(error)}") from error
    with _hub_errors(f"{repo_id} was not pushed", f"{path.parent} is complete"):
        try:
            card.validate(repo_type=repo_type)
            return
        except ValueError as error:
            problem = error
    raise ValueError(f"the Hub rejects the card {path}: {_one_line(problem)}") from problem


def _files_of(folder: Path) -> list[str]:
    """List the files to push, relative to the folder and sorted. Warns about hidden files, but for results."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder")
    found, hidden = [], []
    for place, folders, names in os.walk(folder, onerror=_raise):
        inside = Path(place).relative_to(folder)
        unseen = {
            name for name in (*folders, *names) if name.startswith(".") and (inside / name).as_posix() != EVAL_RESULTS
        }
        hidden += [(inside / name).as_posix() for name in unseen]
        folders[:] = [name for name in folders if name not in unseen]
        links = [name for name in folders if Path(place, name).is_symlink()]
        for name in (*names, *links):
            path = Path(place, name)
            if name in unseen:
                continue
            if path.is_symlink() or not path.is_file():
                raise ValueError(f"{path} is a link or a special file: replace it by a copy (`cp -RL`)")
            found.append((inside / name).as_posix())
    if not found:
        raise FileNotFoundError(f"{folder} contains no file to push")
    if hidden:
        examples = ", ".join(sorted(hidden)[:3])
        warnings.warn(
            f"hidden files and folders of {folder} are not pushed: {len(hidden)}, such as {examples}", stacklevel=3
        )
    return sorted(found)


def _raise(error: OSError) -> None:
    raise error


@contextmanager
def _hub_errors(problem: str, state: str) -> Iterator[None]:
    """Turn any error of a request to the Hub into an `OSError` that names the problem, the state and what to do."""
    try:
        yield
    except Exception as error:  # including those of the client's HTTP library
        advice = {
            401: "log in with `hf auth login`, or set HF_TOKEN to a valid token with write access",
            403: "use a token with write access, from https://huggingface.co/settings/tokens",
            412: "there was another commit meanwhile: look at it, then try again",
        }.get(_status(error) or 0, "try again")
        raise OSError(f"{problem} ({type(error).__name__}: {_one_line(error)}). {state}: {advice}") from error


def _status(error: BaseException | None) -> int | None:
    """Return the HTTP status of an error or of one of its causes."""
    while error is not None:
        response = getattr(error, "response", None)
        if response is not None:
            return int(response.status_code)
        error = error.__cause__
    return None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
