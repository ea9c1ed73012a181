"""The review file: written once, edited by a person, read with care, and finished into a set."""

import json

import pytest
import yaml

from dataset_scripts.construction.captions.templates import TemplateSet
from dataset_scripts.construction.template_mining.captions import CaptionSource, StepCounts
from dataset_scripts.construction.template_mining.mining import MinedTemplate, MiningResult, MiningSettings
from dataset_scripts.construction.template_mining.review import (
    finish_templates,
    read_review,
    review_record,
    write_review,
)


def mined(text: str, cluster: int, origin: str = "mined") -> MinedTemplate:
    return MinedTemplate(cluster, origin, text)


TEMPLATES = (
    mined('The [gender] in "vintage" print: [colored top] — café.', 0),
    mined("The [gender] wears a [colored top].", 0),
    mined("In a [colored top], the [gender] walks.", 0, "variant"),
    mined("With a [bag], a [gender].", 1),
    mined("A [gender] with a [bag] over a [colored top].", 1, "variant"),
)
SOURCE = CaptionSource("cuhk", "train[:1%]", "abc", {"data_dir": "raw"}, ("text",), StepCounts("captions", 9, 9))
STEPS = (SOURCE.counts, StepCounts("placeholders", 9, 5, {"no reply": 4}))
RESULT = MiningResult(TEMPLATES, STEPS, SOURCE, MiningSettings(clusters=2), "llm@r1", "minilm")


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "review" / "review.yaml"
    write_review(RESULT, path)
    return path


def edit(path, change) -> None:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


def edit_entry(path, number: int, **fields) -> None:
    edit(path, lambda content: content["templates"][number].update(fields))


def finished(path, count: int = 1000) -> tuple[TemplateSet, StepCounts]:
    return finish_templates(read_review(path), "1", count)


def test_what_is_written_is_read(path):
    review = read_review(path)
    assert not review.reviewed and review.written == 5 and review.steps == STEPS
    assert [(entry.id, entry.cluster, entry.origin, entry.text) for entry in review.entries] == [
        (one.id, one.cluster, one.origin, one.text) for one in TEMPLATES
    ]
    assert all(entry.keep and entry.notes == "" and not entry.is_edited for entry in review.entries)


def test_the_file_begins_with_what_to_do(path):
    assert path.read_text(encoding="utf-8").startswith("# Templates to review.")


def test_equal_results_give_equal_files(path, tmp_path):
    write_review(RESULT, tmp_path / "other.yaml")
    assert (tmp_path / "other.yaml").read_bytes() == path.read_bytes()


def test_a_file_that_may_hold_edits_is_not_written_over(path):
    edit_entry(path, 0, keep=False)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="may contain edits"):
        write_review(RESULT, path)
    assert path.read_bytes() == before


def test_a_finished_set_says_where_it_comes_from(path, tmp_path):
    edit(path, lambda content: content.update(reviewed=True))
    templates, counts = finished(path)
    templates.save(tmp_path / "templates.json")
    loaded = TemplateSet.load(tmp_path / "templates.json")
    assert loaded == templates and loaded.version == "1"
    assert [(one.id, one.text) for one in loaded.templates] == [(one.id, one.text) for one in TEMPLATES]
    origin = loaded.origin
    assert (origin.data_set, origin.split, origin.revision) == ("cuhk", "train[:1%]", "abc")
    assert (origin.language_model, origin.embedding_model) == ("llm@r1", "minilm")
    assert (origin.clusters, origin.seed) == (2, 0)
    assert counts.kept == counts.seen == 5


def test_what_nobody_has_reviewed_says_so_in_its_version(path):
    assert finished(path)[0].version == "1-unreviewed"


def test_edits_removals_and_additions_are_counted(path):
    def change(content):
        content["templates"][0]["keep"] = False
        content["templates"][1]["text"] = "The [gender] has a [colored top]."
        del content["templates"][3]
        content["templates"].append({"id": "mine-1", "text": "A [gender] on a [vehicle].", "notes": "from memory"})

    edit(path, change)
    templates, counts = finished(path)
    assert [one.text for one in templates.templates] == [
        "The [gender] has a [colored top].",
        TEMPLATES[2].text,
        TEMPLATES[4].text,
        "A [gender] on a [vehicle].",
    ]
    assert counts.seen == 6 and counts.kept == 4
    assert counts.dropped == {"keep is false": 1, "removed from the file": 1, "more than wanted": 0}
    record = review_record(read_review(path), counts)
    assert record["edited"] == 1 and record["kept_by_origin"] == {"added": 1, "mined": 1, "variant": 2}
    assert [step["step"] for step in record["steps"]] == ["captions", "placeholders", "review"]
    assert record["origin"]["revision"] == "abc" and json.dumps(record)


def test_templates_are_taken_evenly_from_clusters_mined_ones_first(path):
    texts = [one.text for one in finished(path, count=3)[0].templates]
    assert texts == [TEMPLATES[0].text, TEMPLATES[1].text, TEMPLATES[3].text]
    assert [one.text for one in finished(path, count=2)[0].templates] == [TEMPLATES[0].text, TEMPLATES[3].text]


def test_shares_of_clusters_differ_by_one_at_most_where_they_have_enough(tmp_path):
    templates = tuple(
        mined(f"A [gender] of cluster {'abc'[cluster]} number {member}.", cluster)
        for cluster, size in enumerate((20, 2, 9))
        for member in range(size)
    )
    path = tmp_path / "review.yaml"
    write_review(MiningResult(templates, STEPS, SOURCE, MiningSettings(), "llm", "minilm"), path)
    chosen, counts = finished(path, count=13)
    shares = [sum(one.id.startswith(f"m00{cluster}") for one in chosen.templates) for cluster in range(3)]
    assert shares == [6, 2, 5]
    assert counts.dropped["more than wanted"] == 18


def test_added_templates_come_first(path):
    edit(path, lambda content: content["templates"].append({"id": "mine-1", "text": "A [gender] on a [vehicle]."}))
    assert [one.id for one in finished(path, count=1)[0].templates] == ["mine-1"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text": "No brackets at all."}, "the text has no placeholder"),
        ({"text": ["x"]}, "`text` is .'x'., it must be a text"),
        ({"text": TEMPLATES[1].text.upper().replace("GENDER", "gender").replace("COLORED TOP", "colored top")},
         f"the text is also that of {TEMPLATES[1].id}"),
        ({"keep": "no"}, "`keep` is 'no', it must be true or false"),
        ({"kept": True}, "unknown key `kept`"),
        ({"id": 12}, "`id` is 12, it must be a text, in quotes"),
        ({"id": "my id"}, "the id can contain only letters"),
        ({"id": TEMPLATES[0].id}, "id, origin and cluster are not from mining"),
        ({"id": TEMPLATES[3].id, "cluster": 1, "origin": "mined"}, "the id is also on line"),
        ({"cluster": 5}, "id, origin and cluster are not from mining"),
        ({"cluster": "5"}, "`cluster` is '5'"),
        ({"origin": "found"}, "`origin` is 'found'"),
        ({"notes": 5}, "`notes` is 5"),
    ],
)  # fmt: skip
def test_a_wrong_edit_is_named_with_its_line_and_id(path, fields, message):
    edit_entry(path, 4, **fields)
    lines = path.read_text(encoding="utf-8").splitlines()
    line = max(number for number, text in enumerate(lines, start=1) if text.startswith("- "))
    name = fields.get("id", TEMPLATES[4].id)
    with pytest.raises(ValueError, match=rf"review.yaml, line {line} \({name}\): {message}"):
        read_review(path)


def test_an_entry_that_is_left_out_may_hold_anything(path):
    edit_entry(path, 1, keep=False, text="Not a template at all")
    assert len(finished(path)[0].templates) == 4


def test_copies_of_mined_templates_need_ids_of_their_own(path):
    copy = {"id": "m000-copy", "cluster": 0, "origin": "mined", "text": "A [gender] on a [vehicle]."}
    edit(path, lambda content: content["templates"].append(copy))
    with pytest.raises(ValueError, match="6 mined templates and variants, but 5 were mined"):
        read_review(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [", "is not YAML"),
        ("- a", "is not a review file of format 1"),
        ("format: 2", "is not a review file of format 1"),
        ("{format: 1, reviewed: maybe}", "`reviewed` is 'maybe'"),
        ("{format: 1, reviewed: true, templates: x}", "`templates` must be a list"),
        ("{format: 1, reviewed: true, templates: [5]}", r"line 1 \(no id\): 5 is not an entry"),
        ("{format: 1, reviewed: true, templates: []}", "`mining` is not as the command `mine` wrote it"),
    ],
)
def test_a_file_that_is_no_review_file_is_refused(tmp_path, content, message):
    path = tmp_path / "review.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_review(path)


def test_a_missing_file_says_who_writes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="the command `mine` writes it"):
        read_review(tmp_path / "review.yaml")


def test_a_review_that_keeps_nothing_is_an_error(path):
    edit(path, lambda content: [entry.update(keep=False) for entry in content["templates"]])
    with pytest.raises(ValueError, match="keeps no template"):
        finished(path)


@pytest.mark.parametrize("count", [0, -1])
def test_a_wrong_count_is_named(path, count):
    with pytest.raises(ValueError, match=f"count = {count!r}"):
        finished(path, count)
