"""Fetch `vtest.avi`, 795 frames (768x576) of pedestrians, out of the Debian and Ubuntu package `opencv-doc`.

    python examples/fetch_vtest.py          # prints runs/vtest/vtest.avi; downloads 96 MB once

Nothing is installed: the package is downloaded, the one file taken out of it, and the package thrown away.
"""

import gzip
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path


def fetch_vtest(folder: Path = Path("runs/vtest")) -> Path:
    """Path of the video in `folder`, fetched if it is not there yet.

    Raises:
        RuntimeError: where apt cannot deliver the package; names what apt said and what to do instead.
    """
    video = folder / "vtest.avi"
    if video.is_file():
        return video
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise RuntimeError(
            "vtest.avi comes from the Debian package opencv-doc, and there is no apt-get here: use --video"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as download:
        if _run(["apt-get", "download", "opencv-doc"], download).returncode != 0:
            # Without package lists (a fresh container) the download cannot work; updating them takes root.
            _run(["apt-get", "update"], download)
            if (retry := _run(["apt-get", "download", "opencv-doc"], download)).returncode != 0:
                complaint = retry.stderr.strip().splitlines()
                raise RuntimeError(
                    f"apt-get download opencv-doc failed: {complaint[-1] if complaint else 'no message'}. "
                    "Run `sudo apt-get update` first, or use --video with a video of your own"
                )
        package = next(Path(download).glob("opencv-doc*.deb"))
        unfinished = Path(download, video.name)
        _take_video_out_of(package, unfinished)
        unfinished.replace(video)  # atomic: an interrupted download leaves no half a video behind
    return video


def _run(command: list[str], folder: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def _take_video_out_of(package: Path, target: Path) -> None:
    with (
        subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as unpacking,
        tarfile.open(fileobj=unpacking.stdout, mode="r|") as archive,
    ):
        for member in archive:
            if member.name.endswith(("/vtest.avi", "/vtest.avi.gz")) and (packed := archive.extractfile(member)):
                content = gzip.open(packed) if member.name.endswith(".gz") else packed
                with target.open("wb") as out:
                    shutil.copyfileobj(content, out)
                unpacking.kill()  # the rest of the 96 MB is not needed
                return
    raise RuntimeError(f"{package.name} holds no vtest.avi: use --video with a video of your own")


if __name__ == "__main__":
    print(fetch_vtest())
