"""A push uploads a folder in one commit, or leaves the branch unchanged."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from modeling_gadms.publishing.hub import check_push_target, push_folder
from tests.hub_client import MINE, READING, HubClient, Reply, write_files
from tests.hub_server import HubServer
from tests.hub_state import FIRST_FILES


pytestmark = pytest.mark.slow


FILES = {
    "README.md": b"---\nlicense: mit\n---\n# A model\n",
    "config.json": b"{}",
    "model.safetensors": bytes(range(256)) * 8,
    "deep/er/notes.txt": b"deep",
}


@pytest.fixture
def faults(hub: HubServer) -> Iterator[HubServer]:
    yield hub
    hub.faults.clear()
    hub.interruptions.clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_files(tmp_path / "folder", FILES)


def push(client: HubClient, folder: Path, repo_id: str, token: str = MINE, **arguments) -> Reply:
    named = {"repo_type": "model", "message": "A push"} | arguments
    return client.call("modeling_gadms.publishing.hub.push_folder", folder, repo_id, token=token, **named)


def pushed(client: HubClient, folder: Path, repo_id: str, **arguments) -> dict:
    reply = push(client, folder, repo_id, **arguments)
    assert not reply.error, reply
    return reply.result


def held(hub: HubServer, repo_id: str, revision: str = "main", repo_type: str = "model") -> dict[str, bytes]:
    """The files of a revision, without those that the Hub writes."""
    files = dict(hub.files(repo_id, revision, repo_type=repo_type))
    files.pop(".gitattributes", None)
    return files


# ---------------------------------------------------------------------------------------------------------------------
# A push.
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("repo_type", ["model", "dataset"])
def test_a_push_makes_the_repository_and_is_one_commit(hub, client, folder, repo_type):
    report = pushed(client, folder, f"me/first-{repo_type}", repo_type=repo_type)
    repository = hub.repositories[repo_type, f"me/first-{repo_type}"]
    assert held(hub, f"me/first-{repo_type}", repo_type=repo_type) == FILES
    commit, initial = repository.history("main")
    assert repository.commits[commit].message == "A push" and repository.commits[initial].files == FIRST_FILES
    assert not repository.private
    prefix = "" if repo_type == "model" else "datasets/"
    assert report == {
        "url": f"{hub.endpoint}/{prefix}me/first-{repo_type}/commit/{commit}",
        "commit": commit,
        "revision": "main",
        "tag": None,
        "files": len(FILES),
        "deleted": 0,
    }


def test_a_push_takes_away_what_the_folder_has_no_more(hub, client, folder):
    pushed(client, folder, "me/stale")
    (folder / "config.json").unlink()
    (folder / "deep/er/notes.txt").rename(folder / "deep/notes.txt")
    report = pushed(client, folder, "me/stale")
    assert held(hub, "me/stale").keys() == {"README.md", "model.safetensors", "deep/notes.txt"}
    assert report["deleted"] == 2 and report["files"] == 3
    assert len(hub.repositories["model", "me/stale"].history("main")) == 3
    assert hub.files("me/stale", repo_type="model")[".gitattributes"] == FIRST_FILES[".gitattributes"]


def test_only_what_the_patterns_name_is_replaced(hub, client, folder):
    hub.commit("me/part", {"data/old.parquet": b"1", "data/deep/old.parquet": b"2", "by-hand.md": b"3"})
    pushed(client, folder, "me/part", repo_type="dataset", replace=["data/*"])
    assert held(hub, "me/part", repo_type="dataset") == {"by-hand.md": b"3", **FILES}


def test_pushing_the_same_again_makes_no_commit(hub, client, folder):
    first = pushed(client, folder, "me/same")
    again = pushed(client, folder, "me/same", tag="v1")
    assert again["commit"] == first["commit"] and again["tag"] == "v1"
    assert hub.repositories["model", "me/same"].tags["v1"].commit == first["commit"]


def test_hidden_files_stay_and_that_is_told(hub, client, folder):
    write_files(folder, {".cache/huggingface/x": b"1", ".git/config": b"2", ".env": b"SECRET=1", "deep/.part-x": b"3"})
    reply = push(client, folder, "me/hidden")
    assert held(hub, "me/hidden") == FILES
    assert f"hidden files and folders of {folder} are not pushed: 4, such as .cache, .env, .git" in reply.warnings


def test_a_gitignore_there_hides_no_file_from_a_push(hub, client, folder):
    hub.commit("me/ignoring", {".gitignore": b"*.json\n*.safetensors\n"}, repo_type="model")
    pushed(client, folder, "me/ignoring")
    assert held(hub, "me/ignoring") == FILES


# ---------------------------------------------------------------------------------------------------------------------
# Branches and tags.
# ---------------------------------------------------------------------------------------------------------------------
def test_a_push_to_a_branch_makes_it_and_leaves_main_alone(hub, client, folder):
    hub.commit("me/branch", {"old.txt": b"1"}, repo_type="model")
    assert pushed(client, folder, "me/branch", revision="next/one")["revision"] == "next/one"
    assert held(hub, "me/branch") == {"old.txt": b"1"} and held(hub, "me/branch", "next/one") == FILES
    (folder / "config.json").write_bytes(b"{1}")
    report = pushed(client, folder, "me/branch", revision="next/one", tag="v2")
    assert held(hub, "me/branch", "next/one")["config.json"] == b"{1}"
    assert hub.repositories["model", "me/branch"].tags["v2"].commit == report["commit"]


def test_a_tag_names_the_commit_for_good(hub, client, folder):
    first = pushed(client, folder, "me/tagged", tag="v1.0")
    (folder / "config.json").write_bytes(b"{1}")
    pushed(client, folder, "me/tagged", tag="v1.1")
    tags = hub.repositories["model", "me/tagged"].tags
    assert (tags["v1.0"].commit, tags["v1.0"].message) == (first["commit"], "A push")
    assert held(hub, "me/tagged", "v1.0") == FILES and held(hub, "me/tagged", "v1.1")["config.json"] == b"{1}"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"tag": "v1"}, "me/taken already has a tag v1"),
        ({"revision": "v1"}, "v1 is a tag of me/taken, which cannot be pushed to"),
        ({"private": True}, "me/taken is public, but a private repository was asked for"),
    ],
)
def test_what_does_not_fit_the_repository_is_refused_before_anything_is_sent(hub, client, folder, arguments, told):
    commit = hub.commit("me/taken", {"old.txt": b"1"}, repo_type="model")
    hub.tag("me/taken", "v1", commit, repo_type="model")
    reply = push(client, folder, "me/taken", **arguments)
    assert "ValueError" in reply.error and told in reply.message
    assert hub.writes("me/taken") == [] and hub.repositories["model", "me/taken"].refs == {
        "main": commit,
        "v1": commit,
    }
    checked = client.refusal(
        "modeling_gadms.publishing.hub.check_push_target", "me/taken", repo_type="model", token=MINE, **arguments
    )
    assert checked.message == reply.message


def test_a_card_that_the_hub_refuses_is_refused_before_anything_is_sent(hub, client, folder):
    for header, told in (("license: mine", "not 'mine'"), ("license: [", "header that cannot be read")):
        (folder / "README.md").write_text(f"---\n{header}\n---\n")
        reply = push(client, folder, "me/bad-card")
        assert "ValueError" in reply.error and told in reply.message and str(folder / "README.md") in reply.message
    assert ("model", "me/bad-card") not in hub.repositories and hub.writes("me/bad-card") == []


# ---------------------------------------------------------------------------------------------------------------------
# Who may.
# ---------------------------------------------------------------------------------------------------------------------
def test_a_private_push_is_for_its_owners(hub, client, folder):
    pushed(client, folder, "me/private", private=True)
    pushed(client, folder, "me/private")  # and stays so
    assert hub.repositories["model", "me/private"].private
    read = "huggingface_hub.list_repo_files"
    assert set(FILES) < set(client.ask(read, "me/private", token=READING))
    assert "RepositoryNotFoundError" in client.refusal(read, "me/private").error


@pytest.mark.parametrize(
    ("token", "advice"),
    [
        ("", "log in with `hf auth login`, or set HF_TOKEN"),
        ("hf_wrong", "log in with `hf auth login`, or set HF_TOKEN"),
        (READING, "use a token with write access"),
    ],
)
def test_a_token_that_does_not_do_is_an_error_that_says_what_would(hub, client, folder, token, advice):
    hub.commit("me/kept", {"old.txt": b"1"}, repo_type="model")
    for repo_id in ("me/kept", "me/not-made"):
        reply = push(client, folder, repo_id, token=token)
        assert "OSError" in reply.error and reply.message.startswith(f"{repo_id} was not pushed (")
        assert f"{folder} is complete: {advice}" in reply.message and "\n" not in reply.message
    assert held(hub, "me/kept") == {"old.txt": b"1"} and ("model", "me/not-made") not in hub.repositories
    assert [request for request in hub.writes("me/kept") if request.status == 200] == []


def test_a_target_is_checked_without_touching_it(hub, client):
    check = "modeling_gadms.publishing.hub.check_push_target"
    hub.commit("they/open", {}, repo_type="model")
    requests = len(hub.requests)
    client.ask(check, "me/to-be", repo_type="model", tag="v1", private=True, token=MINE)
    assert {request.method for request in hub.requests[requests:]} == {"GET"}
    for token, repo_id, told in (
        ("", "me/to-be", "there is no token to push me/to-be with: run `hf auth login`"),
        (READING, "me/to-be", "the token of me is read-only"),
        (MINE, "they/to-be", "the token cannot create they/to-be: it has write access to me"),
    ):
        reply = client.refusal(check, repo_id, repo_type="model", token=token)
        assert "ValueError" in reply.error and told in reply.message
    unknown = client.refusal(check, "me/to-be", repo_type="model", token="hf_wrong")
    assert "OSError" in unknown.error and unknown.message.startswith("me/to-be cannot be pushed to (")


# ---------------------------------------------------------------------------------------------------------------------
# What goes wrong on the way.
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("on", ["upload", "commit"])
def test_a_push_cut_in_the_middle_leaves_the_old_files_and_a_second_one_completes(faults, client, folder, on):
    repo_id = f"me/cut-{on}"
    old = faults.commit(repo_id, {"old.txt": b"1", "config.json": b"old"}, repo_type="model")
    faults.fail(repo_id if on == "commit" else "", "cut", on=on, times=100 if on == "upload" else 1)
    reply = push(client, folder, repo_id, tag="v1")
    assert "OSError" in reply.error and f"{folder} is complete: try again" in reply.message
    assert held(faults, repo_id) == {"old.txt": b"1", "config.json": b"old"}
    assert faults.repositories["model", repo_id].refs == {"main": old}
    faults.faults.clear()
    pushed(client, folder, repo_id, tag="v1")
    assert held(faults, repo_id) == FILES


def test_a_push_whose_answer_is_lost_can_be_repeated(faults, client, folder):
    faults.fail("me/lost", "lost", on="commit")
    assert "OSError" in push(client, folder, "me/lost", tag="v1").error
    pushed(client, folder, "me/lost", tag="v1")
    assert held(faults, "me/lost", "v1") == FILES
    assert len(faults.repositories["model", "me/lost"].history("main")) == 2


def test_what_somebody_else_commits_meanwhile_is_not_overwritten(faults, client, folder):
    faults.commit("me/busy", {"old.txt": b"1"}, repo_type="model")
    theirs = {"theirs.txt": b"2"}
    faults.before_commit("me/busy", lambda: faults.commit("me/busy", theirs, repo_type="model"))
    reply = push(client, folder, "me/busy")
    assert (
        "OSError" in reply.error and "there was another commit meanwhile: look at it, then try again" in reply.message
    )
    assert held(faults, "me/busy") == theirs
    assert pushed(client, folder, "me/busy")["deleted"] == 1


def test_a_tag_that_somebody_else_sets_meanwhile_leaves_the_commit_and_is_told(faults, client, folder):
    old = faults.commit("me/race", {"old.txt": b"1"}, repo_type="model")
    faults.before_commit("me/race", lambda: faults.tag("me/race", "v1", old, repo_type="model"))
    reply = push(client, folder, "me/race", tag="v1")
    commit = faults.repositories["model", "me/race"].branches["main"]
    assert "OSError" in reply.error
    assert reply.message.startswith(f"me/race was pushed as {commit}, but not tagged v1 (")


def test_a_hub_that_is_not_there_is_an_error_that_says_the_folder_is_whole(tmp_path, folder):
    environment = HubServer().environment(tmp_path) | {"HF_ENDPOINT": "http://127.0.0.1:9"}
    with HubClient(environment) as client:
        reply = push(client, folder, "me/x")
    assert "OSError" in reply.error and reply.message.startswith("me/x was not pushed (ConnectError")
    assert reply.message.endswith(f"{folder} is complete: try again")


# ---------------------------------------------------------------------------------------------------------------------
# What is refused without asking the Hub.
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("repo_id", ["me/my street", "street", "me/a/b", "me/..", "me/street.git", ""])
def test_what_is_no_name_of_a_repository_is_refused(folder, repo_id):
    for refuse in (
        lambda: push_folder(folder, repo_id, repo_type="dataset", message="m"),
        lambda: check_push_target(repo_id, repo_type="dataset"),
    ):
        with pytest.raises(ValueError, match=r"(?i)repo.id|must be a name on the Hub"):
            refuse()


@pytest.mark.parametrize("name", ["v 1", "-v1", "a..b", "v1.lock", "v1/", "a~1", "ä", "refs:x", "0" * 40, "v1."])
@pytest.mark.parametrize("kind", ["tag", "revision"])
def test_what_is_no_name_of_a_branch_or_tag_is_refused(folder, kind, name):
    with pytest.raises(ValueError, match="is not a valid (tag|branch) name"):
        push_folder(folder, "me/x", repo_type="model", message="m", **{kind: name})


def test_a_folder_without_files_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        push_folder(tmp_path / "nowhere", "me/x", repo_type="model", message="m")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty contains no file to push"):
        push_folder(tmp_path / "empty", "me/x", repo_type="model", message="m")


@pytest.mark.parametrize("link", ["model.bin", "deep/link", "linked"])
def test_links_are_refused(tmp_path, folder, link):
    target = write_files(tmp_path / "elsewhere", {"secret.txt": b"1"})
    (folder / link).symlink_to(target if link == "linked" else target / "secret.txt")
    with pytest.raises(ValueError, match=f"{folder / link} is a link"):
        push_folder(folder, "me/x", repo_type="model", message="m")
