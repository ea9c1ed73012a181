"""Drawn persons as the releases that researchers have on disk: WebPerson and three benchmarks, in four domains.

```python
from dataset_scripts.synthetic_releases import ReleaseSizes, write_synthetic_releases

write_synthetic_releases("releases", sizes=ReleaseSizes(webperson_images=2000), num_proc=2)
datasets.load_dataset("cuhk_pedes", data_dir="releases/CUHK-PEDES")
```

The files are named, nested and keyed as in the releases, with their quirks: identities from 1 or from 0, folders that
look like splits and are none, a set without validation. A domain differs from another as a benchmark does from the
next: other persons in other clothes, seen by cameras of another tint and resolution.
"""

import json
import operator
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import count, islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tqdm.auto import tqdm

from modeling_gadms.media.images import to_jpeg

from .cuhk_pedes import CuhkPedes
from .drawn.persons.attributes import FAMILY_SIZE, Person
from .drawn.rows import row_generator
from .icfg_pedes import IcfgPedes
from .releases.raw import IMAGES
from .rstpreid import RstpReid
from .synthetic_persons import SPLITS, PersonSampler, SyntheticPersonsConfig


VERSION = 1  # raise it whenever a file changes
MARKER = "synthetic_releases.json"
"""File of a data root that says what was drawn there."""
ROW_GROUP = 16  # rows; small, so that a shard of the smallest WebPerson has several
# First keys of the random numbers drawn here; the sampler's own begin with the number of a split.
_CHOICE, _CAMERA = len(SPLITS), len(SPLITS) + 1


@dataclass(frozen=True)
class Domain:
    """What sets one release apart from the others. No source states such numbers for drawn persons: all are chosen.

    Args:
        images_per_person (`tuple[int, ...]`): images of an identity, taken in turn by the identities.
        captions_per_image (`int`): 1 or 2.
        caption_noise (`float`): probability that an attribute in a caption is told wrong.
        tint (`tuple[float, float, float]`): factors of red, green and blue: the colour cast of the cameras.
        tint_spread (`float`): standard deviation of the logarithm of each image's own factors.
        gamma (`float`): exponent of the pixels in [0, 1]; above 1 is darker.
        contrast (`float`): factor about middle grey.
        resolution (`float`): share of the pixels that the camera had, in each direction; the image is scaled up again.
        jpeg_quality (`int`): of the stored file.
        shares (`Mapping[str, float]`): of the identities in such a garment, or in such a colour above or below, the
            share that the domain has; 1 where none is named.
    """

    images_per_person: tuple[int, ...]
    captions_per_image: int
    caption_noise: float = 0.0
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    tint_spread: float = 0.02
    gamma: float = 1.0
    contrast: float = 1.0
    resolution: float = 1.0
    jpeg_quality: int = 85
    shares: Mapping[str, float] = field(default_factory=dict)

    def share(self, person: Person) -> float:
        """Returns: the share of identities dressed like `person` that the domain has."""
        worn = (person.upper, person.lower, person.upper_color, person.lower_color)
        return float(np.prod([self.shares.get(value, 1.0) for value in worn]))

    def photograph(self, image: Image.Image, rng: np.random.Generator) -> bytes:
        """Returns: the content of a JPEG file of the drawn `image` as the domain's cameras store it."""
        height, width = image.height, image.width
        if self.resolution < 1:
            small = (max(1, round(width * self.resolution)), max(1, round(height * self.resolution)))
            image = image.resize(small, Image.Resampling.BOX).resize((width, height), Image.Resampling.BICUBIC)
        tint = np.array(self.tint) * np.exp(rng.normal(0.0, self.tint_spread, size=3))
        values = (np.asarray(image, dtype=np.float64) / 255) ** self.gamma * tint  # (height, width, 3)
        values = (values - 0.5) * self.contrast + 0.5
        pixels = np.clip(values * 255 + 0.5, 0, 255).astype(np.uint8)
        return to_jpeg(Image.fromarray(pixels), self.jpeg_quality, full_colour=True)


DOMAINS: dict[str, Domain] = {
    # Everybody's cameras and everybody's clothes.
    "webperson": Domain(images_per_person=(1,), captions_per_image=2, caption_noise=0.2, tint_spread=0.08),
    # A grey winter.
    "cuhk_pedes": Domain(
        images_per_person=(3, 4),
        captions_per_image=2,
        tint=(0.84, 0.97, 1.15),
        gamma=1.15,
        contrast=0.9,
        resolution=0.75,
        jpeg_quality=75,
        shares={"t-shirt": 0.1, "shirt": 0.3, "tank top": 0.0, "dress": 0.05, "shorts": 0.05, "skirt": 0.1,
                "white": 0.3, "light blue": 0.3, "yellow": 0.15, "orange": 0.15, "pink": 0.15},
    ),
    # Old surveillance cameras in autumn, under yellow lamps.
    "icfg_pedes": Domain(
        images_per_person=(3, 4, 5),
        captions_per_image=1,
        tint=(1.06, 1.04, 0.74),
        contrast=0.75,
        resolution=0.5,
        jpeg_quality=40,
        shares={"coat": 0.2, "t-shirt": 0.4, "tank top": 0.1, "dress": 0.3, "shorts": 0.2, "skirt": 0.4,
                "red": 0.3, "blue": 0.3, "yellow": 0.3, "pink": 0.2, "purple": 0.2, "light blue": 0.3},
    ),
    # A bright summer.
    "rstpreid": Domain(
        images_per_person=(5,),
        captions_per_image=2,
        tint=(1.12, 0.98, 0.88),
        gamma=0.75,
        contrast=1.15,
        jpeg_quality=92,
        shares={"coat": 0.0, "hoodie": 0.05, "sweater": 0.05, "jacket": 0.1, "vest": 0.2, "joggers": 0.2,
                "black": 0.15, "navy": 0.2, "gray": 0.3, "brown": 0.3},
    ),
}  # fmt: skip


@dataclass(frozen=True)
class ReleaseSizes:
    """Identities of each release and split; the defaults are for tests and drawn in about 4 s.

    A hundred times that many (`ReleaseSizes(webperson_images=10_000, webperson_shards=8, cuhk_pedes_train=1600, ...)`)
    can be learnt from: 40,000 images, about 6 minutes on one core at 96 x 32 pixels.

    Args:
        webperson_images (`int`): images of WebPerson, each of another person.
        webperson_shards (`int`): its Parquet files, at most as many as images.
        cuhk_pedes_train (`int`), cuhk_pedes_validation (`int`), cuhk_pedes_test (`int`): with 3 or 4 images each.
        icfg_pedes_train (`int`), icfg_pedes_test (`int`): with 3 to 5 images each; the release has no validation.
        rstpreid_train (`int`), rstpreid_validation (`int`), rstpreid_test (`int`): with 5 images each.

    Raises:
        TypeError: if a field is no whole number.
        ValueError: if a field is below 1, or there are more shards than images.
    """

    webperson_images: int = 96
    webperson_shards: int = 2
    cuhk_pedes_train: int = 16
    cuhk_pedes_validation: int = 6
    cuhk_pedes_test: int = 8
    icfg_pedes_train: int = 16
    icfg_pedes_test: int = 8
    rstpreid_train: int = 12
    rstpreid_validation: int = 4
    rstpreid_test: int = 6

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be a whole number, got {value!r}")
            if value < 1:
                raise ValueError(f"{name} must be 1 or more, got {value}")
        if self.webperson_shards > self.webperson_images:
            raise ValueError(
                f"webperson_shards = {self.webperson_shards} is more than webperson_images = "
                f"{self.webperson_images}: a shard would be empty"
            )

    def persons(self, domain: str) -> dict[str, int]:
        """Returns: identities by split, in the order of `SPLITS`; splits that the release lacks are left out."""
        if domain == "webperson":
            return {"train": self.webperson_images}
        names = {split: f"{domain}_{split}" for split in SPLITS}
        return {split: getattr(self, name) for split, name in names.items() if hasattr(self, name)}


@dataclass(frozen=True)
class _Sitter:
    """One identity that is to be drawn: `number` among its domain's, `index` among those of the sampler."""

    domain: str
    split: str
    number: int
    index: int
    seed: int
    image_size: tuple[int, int]


@dataclass(frozen=True)
class _Shot:
    """One image of an identity, with the content of its file."""

    split: str
    identity: int
    image: int
    captions: tuple[str, ...]
    content: bytes


def write_synthetic_releases(
    root: str | Path,
    *,
    sizes: ReleaseSizes | None = None,
    image_size: tuple[int, int] = (96, 32),
    seed: int = 0,
    num_proc: int | None = None,
) -> None:
    """Draw the four releases into a data root, or find there that they were drawn before.

    The root holds `WebPerson` (`data/train-*.parquet`), `CUHK-PEDES`, `ICFG-PEDES` and `RSTPReid` (annotations and
    `imgs`). It appears when all is drawn, in one step. Every image is a function of (seed, domain, split, identity,
    image) alone: neither the number of processes nor the size of anything else changes it. No identity is in two
    domains or in two splits.

    Args:
        root (`str` or `Path`): a new or empty folder, or one that an earlier call made.
        sizes ([`ReleaseSizes`], *optional*): by default those of tests.
        image_size (`tuple[int, int]`, *optional*, defaults to `(96, 32)`): (height, width) in pixels.
        seed (`int`, *optional*, defaults to 0)
        num_proc (`int`, *optional*): processes to draw with; by default this one.

    Raises:
        TypeError: if an argument is of the wrong type.
        ValueError: if one is out of its range, or the root was drawn with others.
        FileExistsError: if the root holds anything else.
    """
    sizes = sizes or ReleaseSizes()
    checked = SyntheticPersonsConfig(image_size=image_size, seed=seed)
    if num_proc is not None and operator.index(num_proc) < 1:
        raise ValueError(f"num_proc must be 1 or more, got {num_proc}")
    arguments = {
        "version": VERSION,
        "image_size": list(checked.image_size),
        "seed": checked.seed,
        "sizes": asdict(sizes),
    }
    root = Path(root).absolute()
    if _is_drawn(root, arguments):
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".part-{root.name}-") as part:
        folder = Path(part) / "root"
        for domain in DOMAINS:
            sitters = list(_sitters(domain, sizes.persons(domain), checked.seed, checked.image_size))
            shots = _photograph(sitters, num_proc)
            if domain == "webperson":
                _write_webperson(folder / "WebPerson", list(shots), sizes.webperson_shards)
            else:
                _write_benchmark(folder, domain, shots)
        (folder / MARKER).write_text(json.dumps(arguments, indent=1) + "\n", encoding="utf-8")
        try:
            folder.rename(root)  # onto nothing, or onto an empty folder
        except OSError:
            if not _is_drawn(root, arguments):  # else another process was faster, and drew the same
                raise


def _is_drawn(root: Path, arguments: dict[str, Any]) -> bool:
    marker = root / MARKER
    if marker.is_file():
        drawn = json.loads(marker.read_text(encoding="utf-8"))
        if drawn != arguments:
            raise ValueError(f"{root} was drawn with {drawn}, not with {arguments}: name another folder")
        return True
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise FileExistsError(f"{root} holds something else than drawn releases: name a new or empty folder")
    return False


def _sitters(domain: str, persons: dict[str, int], seed: int, image_size: tuple[int, int]) -> Iterator[_Sitter]:
    """Who is drawn. Each family of similar persons belongs to one domain, which takes those dressed for it."""
    place, number = list(DOMAINS).index(domain), 0
    for split, wanted in persons.items():
        sampler = PersonSampler(seed, split)
        own = (index for index in count() if index // FAMILY_SIZE % len(DOMAINS) == place)
        fitting = (
            index
            for index in own
            if _rng(seed, _CHOICE, domain, split, index).random() < DOMAINS[domain].share(sampler.person(index))
        )
        for index in islice(fitting, wanted):
            yield _Sitter(domain, split, number, index, seed, image_size)
            number += 1


def _rng(seed: int, use: int, domain: str, split: str, *key: int) -> np.random.Generator:
    spawn_key = (use, list(DOMAINS).index(domain), SPLITS.index(split), *key)
    return row_generator(seed, *spawn_key)


def _photograph(sitters: Sequence[_Sitter], num_proc: int | None) -> Iterator[_Shot]:
    """All images of all sitters, in order."""
    with ExitStack() as stack:
        shots: Iterable[list[_Shot]]
        if (num_proc or 1) > 1:
            shots = stack.enter_context(ProcessPoolExecutor(num_proc, get_context("spawn"))).map(
                _shoot, sitters, chunksize=16
            )
        else:
            shots = map(_shoot, sitters)
        name = sitters[0].domain
        for taken in tqdm(shots, desc=f"Drawing {name}", total=len(sitters), unit="person"):
            yield from taken


def _shoot(sitter: _Sitter) -> list[_Shot]:
    domain = DOMAINS[sitter.domain]
    sampler = PersonSampler(sitter.seed, sitter.split)
    shots = []
    for image in range(domain.images_per_person[sitter.number % len(domain.images_per_person)]):
        picture, _ = sampler.draw(sitter.index, image, sitter.image_size)
        rng = _rng(sitter.seed, _CAMERA, sitter.domain, sitter.split, sitter.index, image)
        captions = sampler.captions(sitter.index, image, noise=domain.caption_noise)
        shots.append(
            _Shot(
                split=sitter.split,
                identity=sitter.number,
                image=image,
                captions=tuple(caption.text for caption in captions[: domain.captions_per_image]),
                content=domain.photograph(picture, rng),
            )
        )
    return shots


def _write_webperson(folder: Path, shots: Sequence[_Shot], num_shards: int) -> None:
    """Parquet as published: no identities."""
    (folder / "data").mkdir(parents=True)
    texts = dict.fromkeys(("image_path", "caption1", "caption2"), datasets.Value("string"))
    schema = datasets.Features({"image": datasets.Image(), **texts}).arrow_schema
    for number, shard in enumerate(np.array_split(np.arange(len(shots)), num_shards)):
        rows = []
        for index in shard:
            path, shot = f"{index // 1000:05d}/{index:09d}.jpg", shots[index]
            captions = {f"caption{place}": caption for place, caption in enumerate(shot.captions, start=1)}
            rows.append({"image": {"bytes": shot.content, "path": path}, "image_path": path, **captions})
        name = f"train-{number:05d}-of-{num_shards:05d}.parquet"
        pq.write_table(pa.Table.from_pylist(rows, schema), folder / "data" / name, row_group_size=ROW_GROUP)


def _write_benchmark(root: Path, domain: str, shots: Iterable[_Shot]) -> None:
    release, path_of, first_id, entry_of = _RELEASES[domain]
    folder = root / release.title
    entries = []
    for shot in shots:
        identity = first_id + shot.identity
        path = path_of(shot, identity)
        file = folder / IMAGES / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(shot.content)
        entries.append(entry_of(shot, identity, path))
    (folder / release.annotations[0]).write_text(json.dumps(entries), encoding="utf-8")


def _cuhk_pedes_path(shot: _Shot, identity: int) -> str:
    return f"cam_{'ab'[shot.image % 2]}/{identity:05d}_{shot.image:03d}.jpg"


def _icfg_pedes_path(shot: _Shot, identity: int) -> str:
    # Folders that are not the split.
    return f"{'test' if shot.image % 2 else 'train'}/{identity:04d}/{identity:04d}_{shot.image:03d}.jpg"


def _rstpreid_path(shot: _Shot, identity: int) -> str:
    return f"{identity:04d}_c{shot.image + 1}_0000.jpg"


def _raw_split(shot: _Shot) -> str:
    return "val" if shot.split == "validation" else shot.split


def _pedes_entry(shot: _Shot, identity: int, path: str) -> dict[str, Any]:
    words = [re.findall(r"\w+", caption.lower()) for caption in shot.captions]
    return {
        "split": _raw_split(shot),
        "captions": list(shot.captions),
        "file_path": path,
        "processed_tokens": words,
        "id": identity,
    }


def _rstpreid_entry(shot: _Shot, identity: int, path: str) -> dict[str, Any]:
    return {"id": identity, "img_path": path, "captions": list(shot.captions), "split": _raw_split(shot)}


# Of each benchmark: its format, the path of an image, the first identity and the form of an entry.
_RELEASES = {
    "cuhk_pedes": (CuhkPedes.RELEASE, _cuhk_pedes_path, 1, _pedes_entry),
    "icfg_pedes": (IcfgPedes.RELEASE, _icfg_pedes_path, 0, _pedes_entry),
    "rstpreid": (RstpReid.RELEASE, _rstpreid_path, 0, _rstpreid_entry),
}
