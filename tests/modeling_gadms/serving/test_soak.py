"""Ten minutes of searches and uploads: no request fails, and the server's memory does not grow."""

import io
import os
import random
import re
import subprocess
import threading
import time
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import requests
from PIL import Image

from modeling_gadms.gallery.person_gallery import PersonGallery, PersonRecord
from tests.serving_process import running_server


SECONDS = float(os.environ.get("GADMS_SOAK_SECONDS", "600"))
USERS = 4
WORDS = "a man woman person in red blue green black coat jacket jeans hat bag".split()


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 32, 3), dtype=np.uint8))


def memory_mb(process: subprocess.Popen) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    return int(re.findall(r"VmRSS:\s*(\d+) kB", status)[0]) / 1000


@pytest.mark.torture
@pytest.mark.timeout(SECONDS + 300)
def test_memory_stays_flat_under_searches_and_additions(tmp_path, model, processor):
    gallery = PersonGallery.create(tmp_path / "gallery", model, processor)
    gallery.add(PersonRecord(noise(seed), f"{seed}.png") for seed in range(200))
    with running_server(tmp_path / "gallery") as (server, address):
        end = time.monotonic() + SECONDS
        wrong: list[str] = []
        done = {"searches": 0, "additions": 0}

        def user(number: int) -> None:
            rng = random.Random(number)
            with requests.Session() as session:
                while time.monotonic() < end and not wrong:
                    text = " ".join(rng.choices(WORDS, k=rng.randint(3, 20)))
                    answer = session.post(f"{address}/search", json={"text": text}, timeout=60)
                    done["searches"] += 1
                    if answer.status_code != 200 or len(answer.json()["results"]) != 10:
                        wrong.append(f"search: {answer.status_code} {answer.text[:200]}")

        def adder() -> None:
            with requests.Session() as session:
                while time.monotonic() < end and not wrong:
                    buffer = io.BytesIO()
                    noise(1_000 + done["additions"]).save(buffer, "PNG")
                    answer = session.post(f"{address}/index?name=p.png", data=buffer.getvalue(), timeout=60)
                    if answer.status_code not in (202, 429):
                        wrong.append(f"index: {answer.status_code} {answer.text[:200]}")
                    done["additions"] += answer.status_code == 202
                    time.sleep(0.2)

        threads = [threading.Thread(target=user, args=(number,)) for number in range(USERS)]
        threads.append(threading.Thread(target=adder))
        for thread in threads:
            thread.start()
        samples = []
        while time.monotonic() < end and not wrong:
            time.sleep(SECONDS / 120)
            samples.append(memory_mb(server))
        for thread in threads:
            thread.join(120)
    assert not wrong
    assert done["searches"] > SECONDS and done["additions"] > SECONDS / 10
    assert len(PersonGallery.open(tmp_path / "gallery")) >= 200 + done["additions"] - 20  # some may still be waiting
    # The first third is a warm-up.
    third = len(samples) // 3
    early, late = median(samples[third : 2 * third]), median(samples[2 * third :])
    assert late < 1.1 * early, f"{early:.0f} MB, later {late:.0f} MB: {[round(value) for value in samples]}"
