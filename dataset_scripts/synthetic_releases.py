"""Write drawn persons in the file formats of WebPerson and three benchmarks, each with its own visual domain.

```python
from dataset_scripts.synthetic_releases import ReleaseSizes, write_synthetic_releases

write_synthetic_releases("releases", sizes=ReleaseSizes(webperson_images=2000), num_proc=2)
datasets.load_dataset("cuhk_pedes", data_dir="releases/CUHK-PEDES")
```

Files, folders and JSON keys are those of the real releases, including their quirks: identities from 1 or from 0,
folders named like splits that are not the split, a benchmark without validation. Domains differ like real benchmarks:
other persons, other clothes, and cameras of another tint and resolution.
"""

import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain, count, islice
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
from .drawn.rows import row_generator, whole_number
from .icfg_pedes import IcfgPedes
from .releases.raw import IMAGES
from .rstpreid import RstpReid
from .synthetic_persons import SPLITS, PersonSampler, SyntheticPersonsConfig


VERSION = 1  # raise it if any file changes
MARKER = "synthetic_releases.json"
"""File in a data root that records the arguments it was drawn with."""
ROW_GROUP = 16  # rows; small, so that even the smallest WebPerson has several row groups per shard
# First keys of the random generators used here. Those of `PersonSampler` begin with the index of a split.
_CHOICE, _CAMERA = len(SPLITS), len(SPLITS) + 1


@dataclass(frozen=True)
class Domain:
    """How the images and captions of one release differ from the others. Not stated by any source: all are chosen.

    Args:
        images_per_person (`tuple[int, ...]`): numbers of images per identity, used in turn.
        captions_per_image (`int`): 1 or 2.
        caption_noise (`float`): probability that an attribute in a caption is wrong.
        tint (`tuple[float, float, float]`): colour cast of the cameras, as factors of red, green and blue.
        tint_spread (`float`): standard deviation of the logarithm of the factors between images.
        gamma (`float`): exponent of pixel values in [0, 1]. Above 1 is darker.
        contrast (`float`): factor of the distance from middle grey.
        resolution (`float`): resolution of the camera in each direction, relative to the image.
        jpeg_quality (`int`): quality of the stored file.
        shares (`Mapping[str, float]`): share of the identities with a garment type or a colour that the domain keeps.
            1 by default.
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
        """Returns: the probability of keeping an identity that is dressed like `person`."""
        worn = (person.upper, person.lower, person.upper_color, person.lower_color)
        return float(np.prod([self.shares.get(value, 1.0) for value in worn]))

    def to_jpeg(self, image: Image.Image, rng: np.random.Generator) -> bytes:
        """Returns: the drawn `image` as a JPEG file of the domain's cameras."""
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
    # Many cameras, all clothes.
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
    """Number of identities per release and split. The defaults are for tests and take about 4 s to draw.

    A hundred times as many (`ReleaseSizes(webperson_images=10_000, webperson_shards=8, cuhk_pedes_train=1600, ...)`)
    are enough for training: 40,000 images, drawn in about 6 minutes on one core at 96 x 32 pixels.

    Args:
        webperson_images (`int`): images of WebPerson, each of a different person.
        webperson_shards (`int`): Parquet files of WebPerson, at most one per image.
        cuhk_pedes_train (`int`), cuhk_pedes_validation (`int`), cuhk_pedes_test (`int`): with 3 or 4 images each.
        icfg_pedes_train (`int`), icfg_pedes_test (`int`): with 3 to 5 images each; the release has no validation.
        rstpreid_train (`int`), rstpreid_validation (`int`), rstpreid_test (`int`): with 5 images each.

    Raises:
        ValueError: if a field is not an integer of at least 1, or there are more shards than images.
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
            whole_number(name, value, least=1)
        if self.webperson_shards > self.webperson_images:
            raise ValueError(
                f"webperson_shards = {self.webperson_shards} is more than webperson_images = "
                f"{self.webperson_images}: a shard would be empty"
            )

    def persons(self, domain: str) -> dict[str, int]:
        """Returns: number of identities of each split of the release, in the order of `SPLITS`."""
        if domain == "webperson":
            return {"train": self.webperson_images}
        names = {split: f"{domain}_{split}" for split in SPLITS}
        return {split: getattr(self, name) for split, name in names.items() if hasattr(self, name)}


@dataclass(frozen=True)
class _Identity:
    """An identity to draw. `number` counts within the domain; `index` is its number in the sampler."""

    domain: str
    split: str
    number: int
    index: int
    seed: int
    image_size: tuple[int, int]


@dataclass(frozen=True)
class _DrawnImage:
    """One image of an identity, as the content of a JPEG file."""

    split: str
    identity: int
    number: int
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
    """Draw the four releases into a data root, or reuse a root with the same arguments.

    The root holds `WebPerson` (`data/train-*.parquet`), `CUHK-PEDES`, `ICFG-PEDES` and `RSTPReid` (annotations and
    `imgs`). It is written atomically. Every image depends only on (seed, domain, split, identity, image), not on the
    number of processes or on other sizes. No identity is in two domains or in two splits.

    Args:
        root (`str` or `Path`): a new or empty folder, or one that an earlier call wrote.
        sizes ([`ReleaseSizes`], *optional*): by default small sizes for tests.
        image_size (`tuple[int, int]`, *optional*, defaults to `(96, 32)`): (height, width) in pixels.
        seed (`int`, *optional*, defaults to 0)
        num_proc (`int`, *optional*): number of processes; by default the current one only.

    Raises:
        ValueError: if an argument has the wrong type or is out of range, or the root was drawn with other arguments.
        FileExistsError: if the root contains other files.
    """
    sizes = sizes or ReleaseSizes()
    checked = SyntheticPersonsConfig(image_size=image_size, seed=seed)
    if num_proc is not None:
        whole_number("num_proc", num_proc, least=1)
    size = list(checked.image_size)
    arguments = {"version": VERSION, "image_size": size, "seed": checked.seed, "sizes": asdict(sizes)}
    root = Path(root).absolute()
    if _is_drawn(root, arguments):
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".part-{root.name}-") as part:
        folder = Path(part) / "root"
        with ExitStack() as stack:
            draw: Callable[..., Iterable[list[_DrawnImage]]] = map
            if (num_proc or 1) > 1:
                pool = stack.enter_context(ProcessPoolExecutor(num_proc, get_context("spawn")))
                draw = partial(pool.map, chunksize=16)
            for domain in DOMAINS:
                identities = list(_identities(domain, sizes.persons(domain), checked.seed, checked.image_size))
                drawn = draw(_draw_identity, identities)
                bar = tqdm(drawn, desc=f"Drawing {domain}", total=len(identities), unit="person")
                images = chain.from_iterable(bar)
                if domain == "webperson":
                    _write_webperson(folder / "WebPerson", list(images), sizes.webperson_shards)
                else:
                    _write_benchmark(folder, domain, images)
        (folder / MARKER).write_text(json.dumps(arguments, indent=1) + "\n", encoding="utf-8")
        try:
            folder.rename(root)  # also replaces an empty folder
        except OSError:
            if not _is_drawn(root, arguments):  # another process may have written the same root meanwhile
                raise


def _is_drawn(root: Path, arguments: dict[str, Any]) -> bool:
    marker = root / MARKER
    if marker.is_file():
        drawn = json.loads(marker.read_text(encoding="utf-8"))
        if drawn != arguments:
            raise ValueError(f"{root} was drawn with {drawn}, not with {arguments}: name another folder")
        return True
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise FileExistsError(f"{root} contains other files than drawn releases: name a new or empty folder")
    return False


def _identities(domain: str, persons: dict[str, int], seed: int, image_size: tuple[int, int]) -> Iterator[_Identity]:
    """Choose the identities of a domain. Each family of similar persons belongs to one domain."""
    place, number = list(DOMAINS).index(domain), 0
    for split, wanted in persons.items():
        sampler = PersonSampler(seed, split)
        fitting = (
            index
            for index in count()
            if index // FAMILY_SIZE % len(DOMAINS) == place
            and _rng(seed, _CHOICE, domain, split, index).random() < DOMAINS[domain].share(sampler.person(index))
        )
        for index in islice(fitting, wanted):
            yield _Identity(domain, split, number, index, seed, image_size)
            number += 1


def _rng(seed: int, use: int, domain: str, split: str, *key: int) -> np.random.Generator:
    return row_generator(seed, use, list(DOMAINS).index(domain), SPLITS.index(split), *key)


def _draw_identity(identity: _Identity) -> list[_DrawnImage]:
    domain = DOMAINS[identity.domain]
    sampler = PersonSampler(identity.seed, identity.split)
    images = []
    for number in range(domain.images_per_person[identity.number % len(domain.images_per_person)]):
        image, _ = sampler.draw(identity.index, number, identity.image_size)
        rng = _rng(identity.seed, _CAMERA, identity.domain, identity.split, identity.index, number)
        captions = sampler.captions(identity.index, number, noise=domain.caption_noise)
        images.append(
            _DrawnImage(
                split=identity.split,
                identity=identity.number,
                number=number,
                captions=tuple(caption.text for caption in captions[: domain.captions_per_image]),
                content=domain.to_jpeg(image, rng),
            )
        )
    return images


def _write_webperson(folder: Path, images: Sequence[_DrawnImage], num_shards: int) -> None:
    """Parquet files as published, without identities."""
    (folder / "data").mkdir(parents=True)
    texts = dict.fromkeys(("image_path", "caption1", "caption2"), datasets.Value("string"))
    schema = datasets.Features({"image": datasets.Image(), **texts}).arrow_schema
    for number, shard in enumerate(np.array_split(np.arange(len(images)), num_shards)):
        rows = []
        for index in shard:
            path, image = f"{index // 1000:05d}/{index:09d}.jpg", images[index]
            captions = {f"caption{place}": caption for place, caption in enumerate(image.captions, start=1)}
            rows.append({"image": {"bytes": image.content, "path": path}, "image_path": path, **captions})
        name = f"train-{number:05d}-of-{num_shards:05d}.parquet"
        pq.write_table(pa.Table.from_pylist(rows, schema), folder / "data" / name, row_group_size=ROW_GROUP)


def _write_benchmark(root: Path, domain: str, images: Iterable[_DrawnImage]) -> None:
    release, first_id, path_format, keys = _RELEASES[domain]
    folder = root / release.title
    entries = []
    for image in images:
        identity, odd = first_id + image.identity, image.number % 2
        path = path_format.format(identity=identity, number=image.number, view=image.number + 1,
                                  camera="ab"[odd], folder=("train", "test")[odd])  # fmt: skip
        file = folder / IMAGES / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(image.content)
        values = {
            "id": identity,
            release.path_key: path,
            "captions": list(image.captions),
            "processed_tokens": [re.findall(r"\w+", caption.lower()) for caption in image.captions],
            "split": "val" if image.split == "validation" else image.split,
        }
        entries.append({key: values[key] for key in keys})
    (folder / release.annotations[0]).write_text(json.dumps(entries), encoding="utf-8")


_PEDES_KEYS = ("split", "captions", "file_path", "processed_tokens", "id")
# Of each benchmark: its format, the first identity, the path of an image, and the keys of its JSON entries in order.
# As in the real release, the folders of ICFG-PEDES are not the split.
_RELEASES = {
    "cuhk_pedes": (CuhkPedes.RELEASE, 1, "cam_{camera}/{identity:05d}_{number:03d}.jpg", _PEDES_KEYS),
    "icfg_pedes": (IcfgPedes.RELEASE, 0, "{folder}/{identity:04d}/{identity:04d}_{number:03d}.jpg", _PEDES_KEYS),
    "rstpreid": (RstpReid.RELEASE, 0, "{identity:04d}_c{view}_0000.jpg", ("id", "img_path", "captions", "split")),
}
