"""Galleries in an object store, simulated by a local server."""

import os
import socket
import subprocess
import sys
import time
import urllib.request

import boto3
import numpy as np
import pytest

from modeling_gadms.gallery.person_gallery import PersonGallery, gallery_model
from tests.modeling_gadms.gallery.gallery_worker import records


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def storage_options(tmp_path_factory):
    """Storage options of a store with an empty bucket named `bucket`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    log = tmp_path_factory.mktemp("store") / "log"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with log.open("w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{url}/moto-api/", timeout=60).close()
                break
            except OSError:
                assert server.poll() is None, log.read_text()
                time.sleep(0.5)
        keys = {"aws_access_key_id": "me", "aws_secret_access_key": "secret"}
        store = boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys)
        store.create_bucket(Bucket="bucket")
        yield {"endpoint": url, "allow_http": "true", "region": "us-east-1", **keys}
    finally:
        server.kill()
        server.wait(300)


@pytest.mark.slow
def test_a_gallery_on_an_object_store_answers_as_one_on_disk(tmp_path, model, processor, storage_options):
    place = "s3://bucket/persons"
    far = PersonGallery.create(place, model, processor, storage_options=storage_options)
    near = PersonGallery.create(tmp_path / "near", model, processor)
    for made in (far, near):
        made.add(records(range(20)))
        assert made.add(records(range(15, 25))).already_there == 5
        assert made.update({"camera": "yard"}, where="source < '0005.png'") == 5
        assert made.remove(where="source >= '0022.png'") == 3
        made.compact()
        purged = made.purge()
        assert purged.earlier_versions == 0
        assert (purged.disk_bytes is None) == (purged.unfinished_until is not None) == (made is far)
    reopened = PersonGallery.open(place, model, processor, storage_options=storage_options)
    for where in (None, "camera = 'yard'"):
        found, expected = (made.search("a red coat", 30, where=where) for made in (reopened, near))
        assert [result.id for result in found] == [result.id for result in expected]
        assert np.allclose([result.score for result in found], [result.score for result in expected])
    assert reopened.verify().persons == 22 and reopened.verify().sound
    assert gallery_model(place, storage_options=storage_options) == near.model


@pytest.mark.slow
def test_a_place_in_the_store_without_a_gallery_is_told(model, processor, storage_options):
    with pytest.raises(FileNotFoundError, match="no gallery in s3://bucket/nothing"):
        PersonGallery.open("s3://bucket/nothing", model, processor, storage_options=storage_options)
