"""Write requests of the test Hub: repositories, branches, tags, LFS uploads, and atomic commits."""

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from tests.hub_cards import check_card
from tests.hub_state import FIRST_FILES, Answer, HubState, Refusal, Repository, Tag, etag, is_large


@dataclass(frozen=True)
class Call:
    """A request without its path."""

    method: str
    query: Mapping[str, list[str]]
    body: bytes
    token: str | None
    range: str | None = None

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def json_answer(value: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})


def whoami(hub: HubState, call: Call) -> Answer:
    user = hub.user(call.token)
    if user is None:
        raise Refusal(401, "Invalid username or password.")
    return json_answer(
        {
            "type": "user",
            "name": user.user,
            "orgs": [{"name": name} for name in user.namespaces[1:]],
            "auth": {"type": "access_token", "accessToken": {"role": "write" if user.write else "read"}},
        }
    )


# ---------------------------------------------------------------------------------------------------------------------
# Repositories, branches, tags.
# ---------------------------------------------------------------------------------------------------------------------
def _create(hub: HubState, call: Call) -> Answer:
    asked = call.json
    repo_type = asked.get("type", "model")
    user = hub.user(call.token)
    repo_id = f"{asked.get('organization') or (user.user if user else 'somebody')}/{asked['name']}"
    hub.check_writer(repo_id, call.token)
    url = f"{hub.endpoint}/{'' if repo_type == 'model' else repo_type + 's/'}{repo_id}"
    with hub.lock:
        if (repo_type, repo_id) in hub.repositories:
            return json_answer({"error": "You already created this repo", "url": url}, 409)
        repository = Repository(asked.get("visibility") == "private")
        repository.add("main", FIRST_FILES, "initial commit")
        hub.repositories[repo_type, repo_id] = repository
    return json_answer({"url": url})


def _create_branch(hub: HubState, call: Call, repo_type: str, repo_id: str, branch: str) -> Answer:
    repository = hub.find_to_write(repo_type, repo_id, call.token)
    with hub.lock:
        sha = _known(repository, call.json.get("startingPoint", "main"))
        if branch in repository.branches:
            return json_answer({"error": f"Reference already exists: {branch}"}, 409)
        repository.branches[branch] = sha
    return Answer(201)


def _create_tag(hub: HubState, call: Call, repo_type: str, repo_id: str, revision: str) -> Answer:
    repository = hub.find_to_write(repo_type, repo_id, call.token)
    with hub.lock:
        tag = call.json["tag"]
        if tag in repository.tags:
            return json_answer({"error": f"Tag reference exists already: {tag}"}, 409)
        repository.tags[tag] = Tag(_known(repository, revision), call.json.get("message", ""))
    return Answer()


def _known(repository: Repository, revision: str) -> str:
    sha = repository.sha(revision)
    if sha is None:
        raise Refusal(404, f"there is no revision {revision}", "RevisionNotFound")
    return sha


# ---------------------------------------------------------------------------------------------------------------------
# LFS uploads.
# ---------------------------------------------------------------------------------------------------------------------
def _plan_upload(hub: HubState, call: Call, repo_type: str, repo_id: str, revision: str) -> Answer:
    """For each file: its upload mode, whether `.gitignore` matches it, and its current id."""
    repository = hub.find_to_write(repo_type, repo_id, call.token)
    there = repository.commits[_known(repository, revision)].files
    ignored = call.json.get("gitIgnore", there.get(".gitignore", b"").decode()).split()
    plans = []
    for file in call.json["files"]:
        path = file["path"]
        plans.append(
            {
                "path": path,
                "uploadMode": "lfs" if is_large(path, file["size"]) else "regular",
                "shouldIgnore": any(fnmatchcase(part, rule) for rule in ignored for part in (path, *path.split("/"))),
                **({"oid": etag(path, there[path])} if path in there else {}),
            }
        )
    return json_answer({"files": plans})


def _batch(hub: HubState, call: Call, repo_type: str | None, repo_id: str) -> Answer:
    """Return the upload URLs of objects that are missing."""
    repo_type = repo_type or "model"
    repository = hub.find_to_write(repo_type, repo_id, call.token)
    objects = []
    for wanted in call.json["objects"]:
        answer = {"oid": wanted["oid"], "size": wanted["size"]}
        if wanted["oid"] not in repository.objects:
            place = f"{repo_type}/{repo_id}/{wanted['oid']}"
            answer["actions"] = {name: {"href": f"{hub.endpoint}/{name}/{place}"} for name in ("upload", "verify")}
        objects.append(answer)
    return json_answer({"transfer": "basic", "objects": objects})


def _receive(hub: HubState, call: Call, repo_type: str, repo_id: str, oid: str) -> Answer:
    if hashlib.sha256(call.body).hexdigest() != oid:
        raise Refusal(400, f"the content is not that of {oid}")
    hub.repositories[repo_type, repo_id].objects[oid] = call.body
    return Answer()


def _verify(hub: HubState, call: Call, repo_type: str, repo_id: str, oid: str) -> Answer:
    content = hub.find_to_write(repo_type, repo_id, call.token).objects.get(oid)
    if content is None or (oid, len(content)) != (call.json["oid"], call.json["size"]):
        raise Refusal(404, f"there is no object {oid} of that size", "EntryNotFound")
    return Answer()


# ---------------------------------------------------------------------------------------------------------------------
# Commits.
# ---------------------------------------------------------------------------------------------------------------------
def _commit(hub: HubState, call: Call, repo_type: str, repo_id: str, branch: str) -> Answer:
    if interrupt := hub.interruptions.pop(repo_id, None):
        interrupt()
    repository = hub.find_to_write(repo_type, repo_id, call.token)
    fault = hub.due_fault("commit", repo_id)
    if fault == "unavailable":
        return Answer(503, b"try again")
    if fault == "cut":
        return Answer(lost=True)
    lines = [json.loads(line) for line in call.body.splitlines()]
    header = next(line["value"] for line in lines if line["key"] == "header")
    with hub.lock:
        if branch not in repository.branches:
            raise Refusal(404, f"there is no branch {branch}", "RevisionNotFound")
        parent = repository.branches[branch]
        if header.get("parentCommit", parent) != parent:
            return json_answer({"error": "A commit has happened since. Please refresh and try again."}, 412)
        files = _changed(repository, dict(repository.commits[parent].files), lines)
        sha = repository.add(branch, files, header["summary"])
    url = f"{hub.endpoint}/{'' if repo_type == 'model' else repo_type + 's/'}{repo_id}/commit/{sha}"
    answer = json_answer({"success": True, "commitOid": sha, "commitUrl": url})
    return Answer(lost=True) if fault == "lost" else answer


def _changed(repository: Repository, files: dict[str, bytes], lines: Iterable[dict[str, Any]]) -> dict[str, bytes]:
    for line in lines:
        key, value = line["key"], line["value"]
        path = value.get("path", "")
        if key == "file":
            content = base64.b64decode(value["content"], validate=True)
            if is_large(path, len(content)):
                raise Refusal(400, f"{path} must be sent as an LFS file")
            files[path] = content
        elif key == "lfsFile":
            if value["oid"] not in repository.objects:
                raise Refusal(400, f"{path} names an object that was not sent: {value['oid']}")
            files[path] = repository.objects[value["oid"]]
        elif key == "deletedFile":
            if files.pop(path, None) is None:
                raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
        elif key != "header":
            raise Refusal(400, f"this server does not know the operation {key}")
    return files


def _check_card(hub: HubState, call: Call) -> Answer:
    errors, warnings = check_card(call.json["content"], call.json["repoType"])
    told = {
        name: [{"message": text} for text in texts] for name, texts in (("errors", errors), ("warnings", warnings))
    }
    return json_answer(told, 400 if errors else 200)


_REPO = r"/api/(model|dataset|space)s/([^/]+/[^/]+)"
_OBJECT = r"(model|dataset|space)/([^/]+/[^/]+)/(\w+)"
WRITING: list[tuple[str, str, Callable[..., Answer]]] = [
    ("POST", r"/api/repos/create", _create),
    ("POST", rf"{_REPO}/branch/([^/]+)", _create_branch),
    ("POST", rf"{_REPO}/tag/([^/]+)", _create_tag),
    ("POST", rf"{_REPO}/preupload/([^/]+)", _plan_upload),
    ("POST", r"/(?:(dataset|space)s/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", _batch),
    ("PUT", rf"/upload/{_OBJECT}", _receive),
    ("POST", rf"/verify/{_OBJECT}", _verify),
    ("POST", rf"{_REPO}/commit/([^/]+)", _commit),
    ("POST", r"/api/validate-yaml", _check_card),
]
"""Method, path and function of write requests and of requests that precede them."""
