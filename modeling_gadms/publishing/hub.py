"""The one way a folder gets to the Hub: in one commit, which also takes away what is not there any more.

Whoever reads the repository meanwhile finds the old files or the new ones, and a push that fails leaves the old ones.
"""

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import yaml


if TYPE_CHECKING:
    from huggingface_hub import HfApi


RepoType = Literal["model", "dataset"]

_MAIN = "main"
_KEPT = ".gitattributes"
"""Written by the Hub: which files it keeps outside git."""
_NO_EXCEPTIONS = "# every file of the commit is wanted\n"
"""In place of the repository's `.gitignore`, for which the client would leave files out without a word."""


@dataclass(frozen=True)
class PushReport:
    """What a push did.

    Args:
        url (`str`): address of the commit.
        commit (`str`): its SHA, which pins it.
        revision (`str`): the branch it is on.
        tag (`str`, *optional*): what else it is called.
        files (`int`): files of the folder that the commit holds.
        deleted (`int`): files of the commit before that it does not hold any more.
    """

    url: str
    commit: str
    revision: str
    tag: str | None
    files: int
    deleted: int


@dataclass(frozen=True)
class _Repository:
    """A repository as it is before a push."""

    private: bool
    branches: frozenset[str]
    tags: frozenset[str]


def push_folder(
    folder: Path,
    repo_id: str,
    *,
    repo_type: RepoType,
    message: str,
    files: Sequence[str] | None = None,
    replace: Sequence[str] = ("*",),
    revision: str | None = None,
    tag: str | None = None,
    private: bool = False,
) -> PushReport:
    """Upload a folder to the Hub, in one commit. The repository and the branch are made where they are missing.

    Hidden files and folders, such as `.cache`, stay. Links are refused: they would not be the same file there.

    Args:
        folder (`Path`): what to push.
        repo_id (`str`): `namespace/name`.
        repo_type (`"model"` or `"dataset"`): what it is.
        message (`str`): of the commit, and of the tag.
        files (`Sequence[str]`, *optional*): patterns of the files to push, relative to the folder, in which `*` also
            stands for `/`. By default all.
        replace (`Sequence[str]`, *optional*, defaults to `("*",)`): patterns of files to delete from the branch where
            the folder has them not. `.gitattributes`, which is the Hub's, stays.
        revision (`str`, *optional*): the branch; by default `main`.
        tag (`str`, *optional*): a name for the commit that does not move.
        private (`bool`): make a new repository private, and refuse one that is public.

    Returns:
        [`PushReport`].

    Raises:
        FileNotFoundError: if there is no such folder, or nothing in it is what `files` names.
        ValueError: if a name is malformed, the tag exists, the repository is public and should not be, a file is a
            link, or the Hub does not take the card. Nothing has been uploaded.
        OSError: if the Hub cannot be reached, refuses, or got another commit meanwhile. The branch is as it was,
            unless only the tag failed, as the message then says, or the Hub's answer to the commit was lost.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    branch = revision or _MAIN
    _check_names(repo_id, branch, tag)
    paths = _files_of(folder, files)
    api, whole = HfApi(), f"{folder} is whole"
    with _hub_errors(f"{repo_id} was not pushed", whole):
        repository = _find(api, repo_id, repo_type)
    _check_repository(repo_id, repository, branch, tag, private)
    if "README.md" in paths:
        _check_card(folder / "README.md", repo_id, repo_type)
    with _hub_errors(f"{repo_id} was not pushed", whole):
        if repository is None:
            api.create_repo(repo_id, repo_type=repo_type, private=private or None)
        if branch != _MAIN and (repository is None or branch not in repository.branches):
            api.create_branch(repo_id, repo_type=repo_type, branch=branch, exist_ok=True)
        parent = api.repo_info(repo_id, repo_type=repo_type, revision=branch).sha
        there = api.list_repo_files(repo_id, repo_type=repo_type, revision=parent)
        stale = sorted(path for path in set(there) - set(paths) - {_KEPT} if _matches(path, replace))
        additions = [CommitOperationAdd(path, str(folder / path)) for path in paths]
        api.preupload_lfs_files(
            repo_id,
            additions,
            repo_type=repo_type,
            revision=branch,
            free_memory=False,
            gitignore_content=_NO_EXCEPTIONS,
        )
        # Not `upload_folder`, which spreads a folder over several commits where hf_xet is installed.
        commit = api.create_commit(
            repo_id,
            [*(CommitOperationDelete(path, is_folder=False) for path in stale), *additions],
            commit_message=message,
            repo_type=repo_type,
            revision=branch,
            parent_commit=parent,
        )
    if tag is not None:
        with _hub_errors(f"{repo_id} holds the files as {commit.oid}, but it was not tagged {tag}", whole):
            api.create_tag(repo_id, repo_type=repo_type, tag=tag, tag_message=message, revision=commit.oid)
    return PushReport(str(commit.commit_url), commit.oid, branch, tag, len(paths), len(stale))


def check_push_target(
    repo_id: str,
    *,
    repo_type: RepoType,
    revision: str | None = None,
    tag: str | None = None,
    private: bool = False,
) -> None:
    """Refuse, before work that may take days, what could not be pushed to at its end. Changes nothing on the Hub.

    Args:
        repo_id, repo_type, revision, tag, private: as in [`push_folder`].

    Raises:
        ValueError: if a name is malformed, there is no token for the Hub or one that may only read, the namespace is
            not its owner's, the tag exists, or the repository is public and should not be.
        OSError: if the Hub cannot be reached or does not know the token.
    """
    from huggingface_hub import HfApi, get_token

    branch = revision or _MAIN
    _check_names(repo_id, branch, tag)
    if not get_token():
        raise ValueError(f"there is no token to push {repo_id} with: run `hf auth login`, or set HF_TOKEN")
    api = HfApi()
    with _hub_errors(f"{repo_id} cannot be pushed to", "nothing has been done"):
        user = api.whoami()
        repository = _find(api, repo_id, repo_type)
    role = user.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise ValueError(f"the token of {user['name']} may only read: {repo_id} needs one that may write")
    namespaces = [user["name"], *(organisation["name"] for organisation in user.get("orgs", []))]
    # What a fine-grained token opens is known to the Hub alone.
    if repository is None and role == "write" and repo_id.partition("/")[0] not in namespaces:
        raise ValueError(f"the token may not make {repo_id}: it opens {', '.join(namespaces)}")
    _check_repository(repo_id, repository, branch, tag, private)


def _check_names(repo_id: str, branch: str, tag: str | None) -> None:
    from huggingface_hub.utils import validate_repo_id

    validate_repo_id(repo_id)
    if "/" not in repo_id:
        raise ValueError(f"{repo_id} names no namespace: say whose it is, as in my_name/{repo_id}")
    for kind, name in (("branch", branch), ("tag", tag)):
        # A narrow reading of what git allows.
        if name is not None and not re.fullmatch(r"\w[\w.+-]*(/\w[\w.+-]*)*(?<!\.)(?<!\.lock)", name, re.ASCII):
            raise ValueError(f"{name!r} is no name of a {kind}: use letters, digits, and . _ - + / between them")
        if name is not None and (".." in name or re.fullmatch("[0-9a-f]{40}", name)):
            raise ValueError(f"{name!r} is no name of a {kind}: git would take it for commits")


def _find(api: "HfApi", repo_id: str, repo_type: RepoType) -> _Repository | None:
    """A repository as it is; none where there is none that the token may read."""
    from huggingface_hub.errors import RepositoryNotFoundError

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
            f"{repo_id} is public, and this is to be private: make it private in its settings on the Hub, or push to "
            "another name"
        )
    if tag in repository.tags:
        raise ValueError(f"{repo_id} has a tag {tag} already, which others may rely on: choose another")
    if branch in repository.tags:
        raise ValueError(f"{branch} is a tag of {repo_id}, which cannot be pushed to: name a branch")


def _check_card(path: Path, repo_id: str, repo_type: RepoType) -> None:
    """Have the Hub check a card before large files are sent, not after.

    Raises:
        ValueError: if it does not take it.
        OSError: if it cannot be reached.
    """
    from huggingface_hub import RepoCard

    try:
        card = RepoCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=True)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path} has a header that cannot be read: {_one_line(error)}") from error
    problem = None
    with _hub_errors(f"{repo_id} was not pushed", f"{path.parent} is whole"):
        try:
            card.validate(repo_type=repo_type)
        except ValueError as error:
            problem = error
    if problem is not None:
        raise ValueError(f"the Hub does not take {path} for a card: {_one_line(problem)}") from problem


def _files_of(folder: Path, patterns: Sequence[str] | None) -> list[str]:
    """Files to push, relative to the folder and sorted; tells of hidden ones that stay.

    Raises:
        FileNotFoundError: if there is no such folder, or no file for a pattern.
        ValueError: if one is a link, or no file at all.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder")
    wanted = ("*",) if patterns is None else tuple(patterns)
    found, hidden = [], []
    for place, folders, names in os.walk(folder, onerror=_raise):
        inside = Path(place).relative_to(folder)
        links = [name for name in folders if (Path(place) / name).is_symlink()]
        hidden += [(inside / name).as_posix() for name in folders if name.startswith(".")]
        folders[:] = [name for name in folders if not name.startswith(".") and name not in links]
        for name in (*names, *links):
            path = (inside / name).as_posix()
            # A folder is wanted where files in it are.
            if not _matches(path, wanted if name not in links else [*wanted, *(p.rpartition("/")[0] for p in wanted)]):
                continue
            if name.startswith("."):
                hidden.append(path)
            elif (folder / path).is_symlink() or not (folder / path).is_file():
                raise ValueError(
                    f"{folder / path} is a link, or no file to read: put a copy there (`cp -RL`) to push it"
                )
            else:
                found.append(path)
    if missing := [pattern for pattern in wanted if not any(fnmatchcase(path, pattern) for path in found)]:
        raise FileNotFoundError(f"{folder} holds no file to push that matches {missing[0]}")
    if left := [path for path in hidden if _matches(path, wanted)]:
        few = ", ".join(sorted(left)[:3])
        warnings.warn(f"hidden files and folders of {folder} stay here: {len(left)}, such as {few}", stacklevel=3)
    return sorted(found)


def _raise(error: OSError) -> None:
    raise error


def _matches(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)


@contextmanager
def _hub_errors(problem: str, consolation: str) -> Iterator[None]:
    """Whatever goes wrong between here and the Hub, as an `OSError` that says what to do."""
    try:
        yield
    except Exception as error:  # of a refused connection, whatever class the Hub's HTTP library has for it
        advice = {
            401: "log in with `hf auth login`, or set HF_TOKEN to a token that the Hub knows and that may write there",
            403: "use a token that may write there, from https://huggingface.co/settings/tokens",
            412: "something else was committed meanwhile: look at it, then try again",
        }.get(_status(error) or 0, "try again")
        raise OSError(f"{problem} ({type(error).__name__}: {_one_line(error)}). {consolation}: {advice}") from error


def _status(error: BaseException | None) -> int | None:
    """The HTTP status behind an error, which the client may have wrapped."""
    while error is not None:
        response = getattr(error, "response", None)
        if response is not None:
            return int(response.status_code)
        error = error.__cause__
    return None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
