"""`examples/mteb_tasks.py`: our tasks and models under mteb's own evaluation, and its mock run."""

import importlib.util
from pathlib import Path

import mteb
import pytest
from miniature_releases import cuhk_pedes, rstpreid, write
from mteb.results import TaskResult

from modeling_gadms.encoders.encoding import encode_captions, encode_images
from modeling_gadms.metrics.person_retrieval.ranking import rank_metrics


PROGRAM = Path(__file__).parents[2] / "examples" / "mteb_tasks.py"


@pytest.fixture(scope="module")
def example():
    specification = importlib.util.spec_from_file_location("mteb_tasks", PROGRAM)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def encoder(example, tmp_path, tiny_model, processor):
    tiny_model().save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return example.DualEncoder(str(tmp_path / "model"))


def test_scores_are_those_of_our_metric(example, encoder):
    """Several relevant images a caption: R@k is mteb's hit rate, and not its recall."""
    task = example.SyntheticPersons(num_train_persons=1, num_validation_persons=1, num_test_persons=12,
                                    test_images_per_person=3, image_size=(48, 16))  # fmt: skip
    (result,) = mteb.evaluate(encoder, task, cache=None, show_progress_bar=False).task_results
    (scores,) = result.scores["test"]
    rows = example.load_split("synthetic_persons", "test", **task.builder_arguments)
    captions = [caption for row in rows for caption in (row["caption1"], row["caption2"])]
    metrics = rank_metrics(
        encode_captions(encoder.model, encoder.processor, captions, progress=False),
        encode_images(encoder.model, encoder.processor, rows["image"], progress=False),
        [person for person in rows["person_id"] for _ in range(2)],
        rows["person_id"][:],
    )
    assert len(captions) == 72 and 0 < metrics.recall[1] < metrics.recall[10] < 100
    assert {k: round(100 * scores[f"hit_rate_at_{k}"], 3) for k in (1, 5, 10)} == {
        k: round(value, 3) for k, value in metrics.recall.items()
    }
    assert scores["main_score"] == scores["hit_rate_at_1"] > scores["recall_at_1"]
    assert 100 * scores["map_at_1000"] == pytest.approx(metrics.mean_average_precision, abs=1e-3)


def test_benchmarks_are_found_in_a_folder_of_releases(example, tmp_path):
    write(tmp_path / "CUHK-PEDES", "reid_raw.json", cuhk_pedes())
    write(tmp_path / "RSTPReid", "data_captions.json", rstpreid())
    tasks = example.person_retrieval_tasks(tmp_path)
    assert [task.metadata.name for task in tasks] == ["CUHKPEDEST2IRetrieval", "RSTPReidT2IRetrieval"]
    for task in tasks:
        task.builder_arguments["check_counts"] = False
        task.load_data()
        data = task.dataset["default"]["test"]
        rows = example.load_split(task.metadata.dataset["path"], "test", **task.builder_arguments)
        assert data["queries"]["text"][:] == [caption for row in rows for caption in row["captions"]]
        persons = dict(zip(data["corpus"]["id"], rows["person_id"], strict=True))
        for row, captions in enumerate(rows["captions"]):
            for number in range(len(captions)):
                relevant = data["relevant_docs"][f"caption-{row}-{number}"]
                assert set(relevant) == {name for name, person in persons.items() if person == rows["person_id"][row]}


def test_a_model_passes_the_mock_run_of_mteb(encoder, monkeypatch):
    """One task of each kind that compares captions and images; the whole run has a hundred tasks of text."""
    import mteb.mocks.mock_run as mock_run

    tasks = [task for task in mock_run.ALL_MOCK_TASK_TEST_GRID if set(task.metadata.modalities) == {"text", "image"}]
    monkeypatch.setattr(mock_run, "ALL_MOCK_TASK_TEST_GRID", tasks)
    results = mteb.mock_run(encoder)
    assert {task.metadata.type for task in tasks} >= {"Any2AnyRetrieval", "ZeroShotClassification"}
    assert [name for name, status in results.items() if not isinstance(status, TaskResult)] == []
