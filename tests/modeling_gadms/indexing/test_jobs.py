"""Background jobs index one source after another, report their progress and can be cancelled."""

import shutil
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from modeling_gadms.gallery.person_gallery import PersonGallery
from modeling_gadms.indexing import jobs as index_jobs
from modeling_gadms.indexing.indexer import SourceOptions
from modeling_gadms.indexing.jobs import (
    FolderInUseError,
    IndexJob,
    IndexJobs,
    JobsClosedError,
    JobsFullError,
    JobState,
    safe_name,
)
from modeling_gadms.media.detection import PersonBox
from tests.waiting import PATIENCE_SECONDS, wait_for


@pytest.fixture
def gallery(tmp_path, model, processor) -> PersonGallery:
    return PersonGallery.create(tmp_path / "gallery", model, processor)


class HeldDetector:
    """Finds a person in each frame; blocks until the test allows the frame."""

    def __init__(self, allowed: int = 1_000):
        self.allowed = threading.Semaphore(allowed)

    def __call__(self, images):
        assert self.allowed.acquire(timeout=PATIENCE_SECONDS)
        return [[PersonBox(10, 10, 40, 90, 0.9)] for _ in images]


def write_video(path: Path, frames: int = 10) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (160, 120))
    for _ in range(frames):
        writer.write(np.full((120, 160, 3), 90, dtype=np.uint8))
    writer.release()
    return path


def write_picture(path: Path) -> Path:
    Image.new("RGB", (20, 60), "red").save(path)
    return path


def until(jobs: IndexJobs, job: IndexJob, reached) -> IndexJob:
    wait_for(lambda: reached(jobs.get(job.id)), told=lambda: jobs.get(job.id))
    return jobs.get(job.id)


def over(job: IndexJob) -> bool:
    return job.state.is_over


def test_a_job_waits_runs_and_is_done(gallery, tmp_path):
    detector = HeldDetector(0)
    jobs = IndexJobs(gallery, lambda: detector, tmp_path / "jobs")
    with jobs.room() as arrived:
        first_video = write_video(arrived / "v.avi")
        first = jobs.submit(first_video, SourceOptions(camera="gate-1"), root=arrived, remove=arrived)
    video = Path(shutil.copy(first_video, tmp_path / "v.avi"))
    second = jobs.submit(video, SourceOptions(every=5), root=tmp_path)
    until(jobs, first, lambda job: job.state == JobState.RUNNING)
    assert jobs.get(second.id).state == JobState.WAITING
    detector.allowed.release(4)
    running = until(jobs, first, lambda job: job.progress and job.progress.seen >= 4)
    assert (running.progress.expected, running.report) == (10, None)
    detector.allowed.release(100)
    done = until(jobs, first, over)
    assert (done.state, done.source, done.error) == (JobState.DONE, "v.avi", None)
    assert (done.report.seen, done.report.tracks, done.report.persons) == (10, 1, 1)
    assert until(jobs, second, over).report.already_there == 1
    assert video.exists() and not arrived.exists()
    assert [job.id for job in jobs.all()] == [second.id, first.id]
    assert gallery.info().cameras == {"gate-1": 1}
    jobs.close(30)


def test_a_running_job_is_cancelled_and_keeps_what_it_found(gallery, tmp_path):
    detector = HeldDetector(3)
    jobs = IndexJobs(gallery, lambda: detector, tmp_path / "jobs")
    job = jobs.submit(write_video(tmp_path / "v.avi"))
    until(jobs, job, lambda job: job.progress and job.progress.seen == 3)
    jobs.cancel(job.id)
    detector.allowed.release(1)
    stopped = until(jobs, job, over)
    assert (stopped.state, stopped.report.seen, len(gallery)) == (JobState.CANCELLED, 4, 1)
    assert jobs.cancel(job.id).state == JobState.CANCELLED  # again: nothing happens
    jobs.close(30)


def test_a_waiting_job_that_is_cancelled_never_runs(gallery, tmp_path):
    detector = HeldDetector(0)
    jobs = IndexJobs(gallery, lambda: detector, tmp_path / "jobs")
    video = write_video(tmp_path / "v.avi")
    first, second = jobs.submit(video), jobs.submit(tmp_path / "nowhere.avi")
    jobs.cancel(second.id)
    detector.allowed.release(100)
    assert until(jobs, second, over).state == JobState.CANCELLED
    assert jobs.get(first.id).state == JobState.DONE
    jobs.close(30)


def test_a_source_that_fails_says_why_and_the_next_one_runs(gallery, tmp_path):
    jobs = IndexJobs(gallery, HeldDetector, tmp_path / "jobs", max_frames=5)
    (tmp_path / "letter.avi").write_text("Dear Sir or Madam")
    Image.new("RGB", (20, 60), "red").save(tmp_path / "p.png")
    bad = jobs.submit(tmp_path / "letter.avi")
    long = jobs.submit(write_video(tmp_path / "v.avi"))
    good = jobs.submit(tmp_path / "p.png")
    assert until(jobs, good, over).report.persons == 1
    assert (jobs.get(bad.id).state, jobs.get(long.id).state) == (JobState.FAILED, JobState.FAILED)
    assert "letter.avi does not open as a video" in jobs.get(bad.id).error
    assert "10 frames; the maximum is 5" in jobs.get(long.id).error
    jobs.close(30)


def test_an_error_of_the_program_is_not_told_to_strangers(gallery, tmp_path, caplog):
    def broken():
        raise RuntimeError("secret path /root")

    jobs = IndexJobs(gallery, broken, tmp_path / "jobs")
    job = until(jobs, jobs.submit(write_video(tmp_path / "v.avi")), over)
    assert job.error == "internal error (RuntimeError); see the log"
    assert "secret path /root" in caplog.text
    jobs.close(30)


def test_so_many_may_wait_and_a_closed_one_takes_none(gallery, tmp_path, monkeypatch):
    monkeypatch.setattr(index_jobs, "MAX_WAITING", 2)
    detector = HeldDetector(0)
    jobs = IndexJobs(gallery, lambda: detector, tmp_path / "jobs")
    video = write_video(tmp_path / "v.avi")
    running = jobs.submit(video)
    until(jobs, running, lambda job: job.state == JobState.RUNNING)
    for _ in range(2):
        jobs.submit(video)
    with pytest.raises(JobsFullError, match="2 sources are already waiting"):
        jobs.submit(video)
    with pytest.raises(JobsFullError, match="2 sources"), jobs.room():
        pass
    jobs.cancel(running.id)
    detector.allowed.release(100)
    jobs.close(30)
    assert jobs.get(running.id).state == JobState.CANCELLED
    with pytest.raises(JobsClosedError):
        jobs.submit(video)
    with pytest.raises(JobsClosedError), jobs.room():
        pass


def test_files_that_arrive_hold_places_in_the_queue(gallery, tmp_path, monkeypatch):
    monkeypatch.setattr(index_jobs, "MAX_WAITING", 2)
    jobs = IndexJobs(gallery, HeldDetector, tmp_path / "jobs")
    with jobs.room() as first, jobs.room():
        with pytest.raises(JobsFullError), jobs.room():
            pass
        assert first.is_dir()
    with jobs.room():
        assert not first.exists()
    jobs.close(30)


# ---------------------------------------------------------------------------------------------------------------------
# What outlives the program, and what ends a job but not the thread.
# ---------------------------------------------------------------------------------------------------------------------
def test_the_next_program_goes_on_with_the_jobs_of_the_last_one(gallery, tmp_path):
    detector, folder = HeldDetector(3), tmp_path / "jobs"
    jobs = IndexJobs(gallery, lambda: detector, folder)
    done = jobs.submit(write_picture(tmp_path / "done.png"))
    with jobs.room() as arrived:
        running = jobs.submit(write_video(arrived / "v.avi"), root=arrived, remove=arrived)
    waiting = jobs.submit(write_picture(tmp_path / "p.png"), SourceOptions(camera="gate-7"))
    lost = jobs.submit(write_picture(tmp_path / "lost.png"))
    until(jobs, running, lambda job: job.progress and job.progress.seen == 3)
    with pytest.raises(FolderInUseError, match="--uploads"):
        IndexJobs(gallery, lambda: detector, folder)
    with pytest.raises(FolderInUseError, match="cannot hold uploads .*--uploads"):
        IndexJobs(gallery, lambda: detector, tmp_path / "done.png")
    closing = threading.Thread(target=jobs.close, args=(PATIENCE_SECONDS,))
    closing.start()
    wait_for(jobs._closing.is_set)
    detector.allowed.release(1)
    closing.join(PATIENCE_SECONDS)
    assert [job.state.value for job in jobs.all()] == ["waiting", "waiting", "waiting", "done"]
    assert jobs._stored[running.id].starts == 0  # else a third quiet stop would end the job
    before = len(gallery)
    assert before == 2  # the picture, and the person of the frames that were read

    (tmp_path / "lost.png").unlink()
    (folder / "upload-left").mkdir()
    (folder / "jobs" / "broken.json").write_text("{")
    (folder / "jobs" / ".part-left.json").touch()
    detector.allowed.release(1_000)
    jobs = IndexJobs(gallery, lambda: detector, folder)
    assert until(jobs, waiting, over).report.persons == 1
    assert until(jobs, running, over).report.seen == 10
    assert (jobs.get(done.id).state, jobs.get(done.id).report.persons) == (JobState.DONE, 1)
    assert "its file is gone" in jobs.get(lost.id).error
    assert gallery.info().cameras == {"gate-7": 1}
    assert sorted(path.name for path in folder.iterdir()) == ["jobs"]
    assert not list((folder / "jobs").glob(".part-*"))
    jobs.close(30)


def test_a_job_that_ends_the_program_again_and_again_is_not_started_once_more(gallery, tmp_path):
    """Each program ends as if it were killed: the state file stays as it was while the job was running."""
    path, folder = write_video(tmp_path / "v.avi"), tmp_path / "jobs"
    for starts in range(index_jobs.MAX_STARTS):
        detector = HeldDetector(0)
        jobs = IndexJobs(gallery, lambda detector=detector: detector, folder)
        job = jobs.submit(path) if not starts else jobs.all()[0]
        state = folder / "jobs" / f"{job.id}.json"
        wait_for(lambda state=state: b'"running"' in state.read_bytes())
        as_killed = state.read_bytes()
        detector.allowed.release(1_000)
        jobs.close(30)
        state.write_bytes(as_killed)
    jobs = IndexJobs(gallery, HeldDetector, folder)
    assert jobs.get(job.id).state == JobState.FAILED
    assert "the server ended 3 times" in jobs.get(job.id).error
    jobs.close(30)


def test_the_thread_outlives_its_folder_and_any_error(gallery, tmp_path, caplog):
    folder = tmp_path / "jobs"
    problems = [SystemExit("a library gives up"), OSError("no space left"), RuntimeError("a bug")]

    def broken():
        raise problems.pop(0)

    jobs = IndexJobs(gallery, broken, folder)
    video = write_video(tmp_path / "v.avi")
    for _ in range(3):
        assert until(jobs, jobs.submit(video), over).state == JobState.FAILED
    shutil.rmtree(folder)  # by somebody who cleans up
    assert until(jobs, jobs.submit(write_picture(tmp_path / "p.png")), over).state == JobState.DONE
    assert jobs.is_alive
    with jobs.room() as arrived:
        assert arrived.is_dir()
    jobs.close(30)
    assert not jobs.is_alive


def test_only_the_last_finished_jobs_are_remembered_and_the_detector_is_made_once(gallery, tmp_path, monkeypatch):
    monkeypatch.setattr(index_jobs, "KEPT_JOBS", 2)
    made = []

    def make_detector():
        made.append(HeldDetector())
        return made[-1]

    jobs = IndexJobs(gallery, make_detector, tmp_path / "jobs")
    names = [write_video(tmp_path / f"{number}.avi") for number in range(4)]
    done = [until(jobs, jobs.submit(name), over).id for name in names]
    # Forgotten when the next one comes: two of those finished before it, and itself.
    assert [job.id for job in jobs.all()] == done[:0:-1]
    with pytest.raises(KeyError):
        jobs.get(done[0])
    assert len(made) == 1
    jobs.close(30)


def test_unknown_jobs_are_key_errors(gallery, tmp_path):
    jobs = IndexJobs(gallery, HeldDetector, tmp_path / "jobs")
    for call in (jobs.get, jobs.cancel):
        with pytest.raises(KeyError):
            call("nobody")
    jobs.close(30)


@pytest.mark.parametrize(
    ("given", "safe"),
    [
        ("cctv.mp4", "cctv.mp4"),
        ("../../etc/passwd.mp4", "passwd.mp4"),
        ("C:\\Users\\me\\gate 2.AVI", "gate 2.AVI"),
        ("/etc/cron.d/x.png", "x.png"),
        ("<img src=x onerror=alert(1)>.jpg", "_img src_x onerror_alert_1_.jpg"),
        ("a\x00b\n.png", "a_b_.png"),
        (".hidden.mp4", "hidden.mp4"),
        ("x" * 300 + ".tar", "x" * 100 + ".tar"),
    ],
)
def test_names_of_strangers_lead_nowhere(given, safe):
    assert safe_name(given) == safe


@pytest.mark.parametrize(
    "name", ["script.py", "...mp4", "archive.tar.gz", "mp4", "", "../..", "a.mp4/", "a.svg", "a.mp4\x00.exe"]
)
def test_other_kinds_of_files_are_not_taken(name):
    with pytest.raises(ValueError, match="is not accepted"):
        safe_name(name)
