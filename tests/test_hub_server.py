"""The Hub that tests publish to answers the real client as the Hub does, also where it refuses and where it fails."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub_cards import check_card
from tests.hub_client import MINE, READING, HubClient, Reply, write_files
from tests.hub_server import HubServer
from tests.hub_state import FIRST_FILES


pytestmark = pytest.mark.slow


THEIRS = "hf_theirs"
FILES = {
    "README.md": b"---\nlicense: mit\n---\n# A model\n",
    "model.safetensors": bytes(range(256)) * 14,
    "small.bin": b"\0\1",
    "empty.bin": b"",
    "deep/er/config.json": b"{}",
}
WHOLE = {**FIRST_FILES, **FILES}


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        server.add_token(MINE, write=True, namespaces=["me", "my_team"])
        server.add_token(READING, write=False, namespaces=["me"])
        server.add_token(THEIRS, write=True, namespaces=["they"])
        yield server


@pytest.fixture
def faults(hub: HubServer) -> Iterator[HubServer]:
    yield hub
    hub.faults.clear()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("folder"), FILES)


def create(client: HubClient, repo_id: str, token: str = MINE, **arguments) -> None:
    client.ask("huggingface_hub.create_repo", repo_id, token=token, **arguments)


def upload(client: HubClient, repo_id: str, folder: Path, token: str = MINE, **arguments) -> Reply:
    return client.call(
        "huggingface_hub.upload_folder", repo_id=repo_id, folder_path=str(folder), token=token, **arguments
    )


def model_files(hub: HubServer, repo_id: str, revision: str = "main") -> dict[str, bytes]:
    return dict(hub.files(repo_id, revision, repo_type="model"))


# ---------------------------------------------------------------------------------------------------------------------
# Repositories, branches, tags, commits.
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("repo_type", ["model", "dataset"])
def test_a_repository_is_made_once_and_starts_with_a_commit(hub, client, repo_type):
    repo_id = f"me/{repo_type}"
    create(client, repo_id, repo_type=repo_type, private=True)
    assert hub.repositories[repo_type, repo_id].private
    assert dict(hub.files(repo_id, repo_type=repo_type)) == FIRST_FILES
    again = client.refusal("huggingface_hub.create_repo", repo_id, repo_type=repo_type, token=MINE)
    assert "409" in again.message
    create(client, repo_id, repo_type=repo_type, exist_ok=True)


@pytest.mark.parametrize("repo_type", ["model", "dataset"])
def test_a_folder_that_is_uploaded_comes_back_byte_by_byte(hub, client, folder, tmp_path, repo_type):
    repo_id = f"me/round-trip-{repo_type}"
    create(client, repo_id, repo_type=repo_type)
    assert not upload(client, repo_id, folder, repo_type=repo_type).error
    assert dict(hub.files(repo_id, repo_type=repo_type)) == WHOLE
    client.ask("huggingface_hub.snapshot_download", repo_id, repo_type=repo_type, local_dir=str(tmp_path))
    for name, content in FILES.items():
        assert (tmp_path / name).read_bytes() == content


def test_a_large_file_goes_only_once(hub, client, folder):
    create(client, "me/twice")
    upload(client, "me/twice", folder)
    before = len(hub.writes("me/twice"))
    upload(client, "me/twice", folder, path_in_repo="copy")
    assert model_files(hub, "me/twice")["copy/model.safetensors"] == FILES["model.safetensors"]
    assert len(hub.writes("me/twice")) == before + 1  # the commit alone


def test_a_content_that_is_not_what_its_name_says_is_refused(hub, client):
    create(client, "me/wrong")
    url = f"{hub.endpoint}/upload/model/me/wrong/{'0' * 64}"
    assert client.ask("tests.test_hub_server.put", url, "anything") == 400
    assert hub.repositories["model", "me/wrong"].objects == {}


def put(url: str, content: str) -> int:
    """Called in the client's process."""
    from huggingface_hub.utils import get_session

    return get_session().put(url, content=content.encode()).status_code


def test_a_file_is_deleted(hub, client, folder):
    create(client, "me/deleting")
    upload(client, "me/deleting", folder)
    client.ask("huggingface_hub.delete_file", "small.bin", "me/deleting", token=MINE)
    assert model_files(hub, "me/deleting").keys() == WHOLE.keys() - {"small.bin"}
    missing = client.refusal("huggingface_hub.delete_file", "small.bin", "me/deleting", token=MINE)
    assert "A file with this name doesn't exist" in missing.message


def test_branches_and_tags_are_made_once_and_listed(hub, client):
    first = hub.commit("me/refs", {"a": b"1"}, repo_type="model")
    second = hub.commit("me/refs", {"a": b"2"}, repo_type="model")
    client.ask("huggingface_hub.create_branch", "me/refs", branch="next/one", revision=first, token=MINE)
    client.ask("huggingface_hub.create_tag", "me/refs", tag="v1", tag_message="First", revision=first, token=MINE)
    for function, named in (("create_branch", {"branch": "next/one"}), ("create_tag", {"tag": "v1"})):
        assert "409" in client.refusal(f"huggingface_hub.{function}", "me/refs", token=MINE, **named).message
    refs = client.ask("huggingface_hub.list_repo_refs", "me/refs")
    assert [(ref["name"], ref["target_commit"]) for ref in refs["branches"]] == [("main", second), ("next/one", first)]
    assert [(ref["name"], ref["ref"], ref["target_commit"]) for ref in refs["tags"]] == [("v1", "refs/tags/v1", first)]
    assert hub.repositories["model", "me/refs"].tags["v1"].message == "First"


def test_a_branch_gets_its_own_commits(hub, client, folder):
    create(client, "me/branches")
    client.ask("huggingface_hub.create_branch", "me/branches", branch="next/one", token=MINE)
    assert not upload(client, "me/branches", folder, revision="next/one", commit_message="Try").error
    assert model_files(hub, "me/branches") == FIRST_FILES and model_files(hub, "me/branches", "next/one") == WHOLE
    assert len(hub.repositories["model", "me/branches"].history("next/one")) == 2
    none = upload(client, "me/branches", folder, revision="nowhere")
    assert "RevisionNotFoundError" in none.error


def test_a_commit_upon_another_parent_is_refused_and_changes_nothing(hub, client, folder):
    old = hub.commit("me/parent", {"a": b"1"}, repo_type="model")
    hub.commit("me/parent", {"a": b"2"}, repo_type="model")
    refused = upload(client, "me/parent", folder, parent_commit=old)
    assert "412" in refused.message and "A commit has happened since" in refused.message
    assert model_files(hub, "me/parent") == {"a": b"2"}


# ---------------------------------------------------------------------------------------------------------------------
# Tokens.
# ---------------------------------------------------------------------------------------------------------------------
def test_a_token_tells_who_holds_it(client):
    user = client.ask("huggingface_hub.whoami", token=MINE)
    assert user["name"] == "me" and [organisation["name"] for organisation in user["orgs"]] == ["my_team"]
    assert user["auth"]["accessToken"]["role"] == "write"
    assert client.ask("huggingface_hub.whoami", token=READING)["auth"]["accessToken"]["role"] == "read"


def test_a_private_repository_is_hidden_from_all_but_its_owners(hub, client):
    hub.commit("me/secret", {"a.txt": b"hidden"}, repo_type="model", private=True)
    for function, arguments in (("model_info", []), ("list_repo_files", []), ("hf_hub_download", ["a.txt"])):
        for token in ("", THEIRS):
            hidden = client.refusal(f"huggingface_hub.{function}", "me/secret", *arguments, token=token)
            assert "RepositoryNotFoundError" in hidden.error
            absent = client.refusal(f"huggingface_hub.{function}", "me/absent", *arguments, token=token)
            assert hidden.message.replace("me/secret", "me/absent") == absent.message
        for token in (MINE, READING):
            client.ask(f"huggingface_hub.{function}", "me/secret", *arguments, token=token)


def test_an_unknown_token_is_refused_whatever_it_asks_for(hub, client):
    hub.commit("me/open", {"a.txt": b""}, repo_type="model")
    for function in ("model_info", "create_repo"):
        refused = client.refusal(f"huggingface_hub.{function}", "me/open", token="hf_unknown")
        assert "401" in refused.message and "Invalid credentials in Authorization header" in refused.message
    assert "Invalid user token" in client.refusal("huggingface_hub.whoami", token="hf_unknown").message


@pytest.mark.parametrize(("token", "status"), [("", "401"), (READING, "403"), (THEIRS, "403")])
def test_nobody_else_writes(hub, client, folder, token, status):
    files = {"a.txt": b"as it was"}
    hub.commit("me/kept", files, repo_type="model")
    before = len(hub.writes("me/kept"))
    assert status in upload(client, "me/kept", folder, token=token).message
    for function in ("create_branch", "create_tag"):
        named = {function.removeprefix("create_"): "new"}
        assert status in client.refusal(f"huggingface_hub.{function}", "me/kept", token=token, **named).message
    assert status in client.refusal("huggingface_hub.create_repo", "me/new", token=token).message
    assert model_files(hub, "me/kept") == files and len(hub.writes("me/kept")) == before
    assert hub.repositories["model", "me/kept"].refs.keys() == {"main"} and ("model", "me/new") not in hub.repositories


# ---------------------------------------------------------------------------------------------------------------------
# Faults.
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["unavailable", "cut"])
def test_an_upload_that_fails_once_is_sent_again_by_the_client(faults, client, folder, kind):
    create(client, f"me/once-{kind}")
    fault = faults.fail("", kind, on="upload")
    assert not upload(client, f"me/once-{kind}", folder).error
    assert len(fault.struck) == 2 and model_files(faults, f"me/once-{kind}") == WHOLE


def test_an_upload_that_keeps_failing_leaves_what_was_there(faults, client, folder):
    faults.commit("me/cut", {"a.txt": b"as it was"}, repo_type="model")
    faults.fail("", "cut", on="upload", times=100)
    assert upload(client, "me/cut", folder).error
    assert model_files(faults, "me/cut") == {"a.txt": b"as it was"}


@pytest.mark.parametrize(("kind", "applied"), [("unavailable", False), ("cut", False), ("lost", True)])
def test_a_commit_that_fails_is_applied_whole_or_not_at_all(faults, client, folder, kind, applied):
    repo_id = f"me/commit-{kind}"
    create(client, repo_id)
    faults.fail(repo_id, kind, on="commit")
    assert upload(client, repo_id, folder).error
    assert model_files(faults, repo_id) == (WHOLE if applied else FIRST_FILES)


def test_without_tokens_everybody_may_write(tmp_path, folder):
    with HubServer() as hub, HubClient(hub.environment(tmp_path)) as client:
        create(client, "anybody/model", token="")
        assert not upload(client, "anybody/model", folder, token="").error
        assert model_files(hub, "anybody/model") == WHOLE


# ---------------------------------------------------------------------------------------------------------------------
# Cards.
# ---------------------------------------------------------------------------------------------------------------------
RESULT = """
model-index:
- name: m
  results:
  - task: {type: image-feature-extraction}
    dataset: {type: me/persons, name: Persons}
    metrics: [{type: recall_at_1, value: 0.5}]
"""


@pytest.mark.parametrize(
    ("header", "error"),
    [
        ("license: mit" + RESULT, None),
        ("license: [mit", "does not parse"),
        ("- a list", "mapping"),
        ("license: mine", "license"),
        ("license: mit\ntags: [1]", "tags"),
        ("license: mit\nlanguage: English", "language"),
        ("license: mit\nbase_model: /home/me/model", "base_model"),
        ("license: mit\nbase_model: [org/model, model]", None),
        ("license: mit\nmodel-index: {}", "must be an array"),
        ("license: mit" + RESULT.replace("- name: m\n ", "-"), "model-index[0].name"),
        ("license: mit" + RESULT.replace("{type: image-feature-extraction}", "{}"), "results[0].task.type"),
        ("license: mit" + RESULT.replace(", name: Persons", ""), "results[0].dataset.name"),
        ("license: mit" + RESULT.replace(", value: 0.5", ""), "metrics[0].value"),
        ("license: mit" + RESULT.replace("value: 0.5", "value: 0"), None),
    ],
)
def test_a_card_is_refused_for_what_its_header_lacks(header, error):
    errors, warnings = check_card(f"---\n{header}\n---\n# Card\n", "model")
    assert warnings == [] or error
    assert (error in errors[0] and len(errors) == 1) if error else errors == []


def test_a_card_is_taken_with_a_warning():
    assert check_card("# No header", "model") == ([], ["empty or missing yaml metadata in repo card"])
    assert check_card("---\ntags: [a]\n---\n", "model") == ([], ["no license is named"])
    unknown = check_card("---\nlicense: mit\npipeline_tag: person-retrieval\n---\n", "model")
    assert unknown == ([], ['The pipeline_tag "person-retrieval" is not in the official list'])
    large = check_card("---\nlicense: mit\nsize_categories: [n>10M]\n---\n", "dataset")
    assert large == ([], ['The size_categories "n>10M" is not in the official list'])


def test_the_client_refuses_to_upload_a_card_that_the_hub_refuses(hub, client, tmp_path):
    create(client, "me/bad-card")
    write_files(tmp_path, {"README.md": b"---\nlicense: mine\n---\n", "model.bin": b"1"})
    refused = upload(client, "me/bad-card", tmp_path)
    assert "ValueError" in refused.error and "not 'mine'" in refused.message and hub.writes("me/bad-card") == []
