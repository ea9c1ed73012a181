"""A run on a cluster of two nodes, one of which is killed, leaves the files of a quiet run on one machine."""

import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml
from crash_detectors import write_frames
from object_store import KEYS, ObjectStore, serving
from run_folders import contents
from scripted_replies import by_hash
from scripted_server import MODEL, scripted_server

from dataset_scripts.construction.captions.chat.types import ChatSettings
from dataset_scripts.construction.persons.criteria import CriteriaSettings
from dataset_scripts.construction.persons.detectors import DetectorSettings
from dataset_scripts.construction.persons.pose import PoseSettings
from dataset_scripts.construction.persons.quality import QualitySettings
from dataset_scripts.construction.run.config import BuildConfig, RunSettings
from dataset_scripts.construction.run.engines import Resources
from dataset_scripts.construction.run.pipeline import build_webperson
from dataset_scripts.construction.sources.planning import SourceSettings
from dataset_scripts.construction.storage import Location, RemotePath, location
from tests.waiting import PATIENCE_SECONDS, wait_for


pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
HERE, ROOT = Path(__file__).parents[1], Path(__file__).parents[4]
FRAMES, SHARDS = 240, 12
NODE = {"num_cpus": 2, "num_gpus": 1}


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with serving() as running:
        yield running


@pytest.fixture(scope="module")
def cluster(store, tmp_path_factory) -> Iterator:
    """Two nodes that reach the store. Ray finds out in seconds that one is gone; by default it takes longer."""
    import ray
    from ray.cluster_utils import Cluster

    health = {
        "health_check_initial_delay_ms": 1000,
        "health_check_period_ms": 1000,
        "health_check_failure_threshold": 5,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (KEYS | {"AWS_ENDPOINT_URL": store.url}).items():
            patch.setenv(name, value)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("PYTHONPATH", f"{HERE}{os.pathsep}{ROOT}")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("OMP_NUM_THREADS", "1")
        cluster = Cluster(initialize_head=True, head_node_args=NODE | {"_system_config": health})
        ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
        yield cluster
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Iterator[BuildConfig]:
    """Cheap stand-ins for the models, each shard on a node with a GPU; the output folder is to be replaced."""
    frames = tmp_path_factory.mktemp("nodes") / "frames"
    write_frames(frames, FRAMES)
    with scripted_server(by_hash({"refused": 0.1, "hedging": 0.1}, of="question")) as server:
        yield BuildConfig(
            run=RunSettings("unset", "ray", images_per_shard=FRAMES // SHARDS, thumbnail_height=32),
            sources={"frames": SourceSettings("folder", str(frames), "frames")},
            captioners={"caption1": ChatSettings("openai", MODEL, base_url=server.base_url, concurrency=4)},
            detector=DetectorSettings("crash_detectors:SideBySide"),
            pose=PoseSettings("crash_detectors:Upright"),
            criteria=CriteriaSettings(min_shorter_side=20),
            quality=QualitySettings(0, 0),
            resources={
                "detect": Resources(num_gpus=0.6, concurrency=2),  # one on each node
                "pose": Resources(num_gpus=0.3),
                "caption1": Resources(num_gpus=0.4, concurrency=2),
            },
        )


@pytest.fixture(scope="module")
def quiet(config, tmp_path_factory) -> dict[str, str]:
    """The files of a run on this machine alone."""
    return contents(run(config, tmp_path_factory.mktemp("quiet") / "webperson", "local"))


def run(config: BuildConfig, root: Path, engine: str) -> Path:
    report = build_webperson(replace(config, run=replace(config.run, output=str(root), engine=engine)), progress=False)
    assert report.set_aside == ()
    return root


def finished(root: Location) -> int:
    """Finished shards, of both stages."""
    markers = root / "work" / "markers"
    return len(markers.files() if isinstance(markers, RemotePath) else list(markers.rglob("*.json")))


def run_and_kill(work: Callable[[], object], root: Location, moments: list[int], kill: Callable[[], None]) -> int:
    """Run on the cluster, and kill a node each time that so many shards are finished. Returns how many were killed."""
    errors: list[BaseException] = []

    def work_or_tell() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    worker = threading.Thread(target=work_or_tell)
    worker.start()
    killed = 0
    for moment in moments:
        wait_for(lambda moment=moment: finished(root) >= moment or not worker.is_alive())
        if worker.is_alive():
            kill()
            killed += 1
    worker.join()
    if errors:
        raise errors[0]
    return killed


@pytest.mark.parametrize("deaths", [1, pytest.param(10, marks=pytest.mark.torture)])
def test_nodes_that_die_change_no_byte(cluster, config, quiet, tmp_path, deaths):
    rng = random.Random(deaths)
    nodes = []

    def kill() -> None:
        cluster.remove_node(nodes.pop(), allow_graceful=False)
        if deaths > 1:
            nodes.append(cluster.add_node(**NODE))

    died = 0
    while died < deaths:
        if not nodes:
            nodes.append(cluster.add_node(**NODE))
        cluster.wait_for_nodes()
        root = tmp_path / f"after-{died}" / "webperson"
        # No more than two in a run: a shard that is lost with three nodes would be set aside.
        moments = sorted(rng.sample(range(2, 2 * SHARDS - 2), min(2, deaths - died))) if deaths > 1 else [3]
        died += run_and_kill(lambda root=root: run(config, root, "ray"), root, moments, kill)
        assert contents(root) == quiet
    for node in nodes:
        cluster.remove_node(node)


@pytest.mark.torture
def test_the_command_from_bucket_to_bucket_on_a_cluster_of_which_a_node_dies(cluster, store, config, quiet, tmp_path):
    node = cluster.add_node(**NODE)
    cluster.wait_for_nodes()
    for file in Path(config.sources["frames"].path).iterdir():
        store.client.upload_file(str(file), "bucket", f"frames/{file.name}")
    root = location("s3://bucket/run/webperson")
    source = replace(config.sources["frames"], path="s3://bucket/frames")
    config = replace(config, sources={"frames": source}, run=replace(config.run, output=str(root)))
    (tmp_path / "build.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(asdict(config)))))
    command = [sys.executable, "-m", "gadms_cli", "build-webperson", "--config", str(tmp_path / "build.yaml")]
    environment = os.environ | {"RAY_ADDRESS": cluster.address}

    def work() -> None:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    assert run_and_kill(work, root, [3], lambda: cluster.remove_node(node, allow_graceful=False)) == 1
    assert contents(store.download("bucket", "run/webperson", tmp_path / "stored")) == quiet
