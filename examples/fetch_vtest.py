"""Fetch `vtest.avi`, 795 frames (768x576) of pedestrians, from the Debian and Ubuntu package `opencv-doc`.

    python examples/fetch_vtest.py          # prints runs/vtest/vtest.avi; downloads 96 MB once

Nothing is installed: the package is downloaded, the video is extracted, and the package is deleted.
"""

import gzip
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path


def fetch_vtest(folder: Path = Path("runs/vtest")) -> Path:
    """Return the path of the video in `folder`, and fetch it if missing.

    Raises:
        RuntimeError: if apt cannot download the package, with its message and an alternative.
    """
    video = folder / "vtest.avi"
    if video.is_file():
        return video
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise RuntimeError(
            "vtest.avi comes from the Debian package opencv-doc, but apt-get is not installed: use --video"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as download:
        if _run(["apt-get", "download", "opencv-doc"], download).returncode != 0:
            # A fresh container has no package lists, and updating them needs root.
            _run(["apt-get", "update"], download)
            if (retry := _run(["apt-get", "download", "opencv-doc"], download)).returncode != 0:
                complaint = retry.stderr.strip().splitlines()
                raise RuntimeError(
                    f"apt-get download opencv-doc failed: {complaint[-1] if complaint else 'no message'}. "
                    "Run `sudo apt-get update` first, or use --video with a video of your own"
                )
        package = next(Path(download).glob("opencv-doc*.deb"))
        unfinished = Path(download, video.name)
        _extract_video(package, unfinished)
        unfinished.replace(video)  # atomic: an interrupted run leaves no partial video
    return video


def _run(command: list[str], folder: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def _extract_video(package: Path, target: Path) -> None:
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
    raise RuntimeError(f"{package.name} contains no vtest.avi: use --video with a video of your own")


if __name__ == "__main__":
    print(fetch_vtest())
