"""What building WebPerson from all of COYO-700M starts from, and what follows; see `scaling_webperson.py`."""

import math
from dataclasses import dataclass, field
from typing import Any


_IMG2DATASET = "[img2dataset](https://github.com/rom1504/img2dataset/blob/main/README.md)"
_COYO = "[COYO-700M](https://huggingface.co/datasets/kakaobrain/coyo-700m)"
_RTDETR = "[RT-DETR](https://github.com/PaddlePaddle/PaddleDetection/blob/develop/configs/rtdetr/README.md)"
_VITPOSE = "[ViTPose](https://arxiv.org/abs/2204.12484)"
_VLLM_7B = "[vLLM 0.7.2, 7B](https://huggingface.co/RedHatAI/Qwen2.5-VL-7B-Instruct-quantized.w4a16)"
_VLLM_72B = "[vLLM 0.7.2, 72B](https://huggingface.co/RedHatAI/Qwen2.5-VL-72B-Instruct-FP8-Dynamic)"


def _given(value: float, unit: str, source: str) -> Any:
    return field(default=value, metadata={"unit": unit, "source": source})


@dataclass(frozen=True)
class Inputs:
    """What the plan starts from. `unit` and `source` of each are in its metadata, and in the first table."""

    urls: int = _given(747_000_000, "rows", f"{_COYO}, its card")
    table_files: int = _given(128, "files", f"{_COYO}, its Parquet files")
    persons: int = _given(5_002_723, "persons", "GA-DMS, arXiv 2509.09118: what was kept, published as WebPerson-5M")
    fetched_share: float = _given(
        0.68,
        "of rows",
        "[LAION-400M in 2024](https://github.com/rom1504/img2dataset/issues/400): 0.67 to 0.68; assumed of COYO too. "
        "[The author](https://github.com/rom1504/img2dataset/issues/439) calls 0.75 normal",
    )
    rows_per_fetcher: float = _given(
        1_280, "rows/s", f"{_IMG2DATASET}: 190 M images in 41 h on one machine of 16 cores"
    )
    fetcher_cores: int = _given(16, "cores", _IMG2DATASET)
    image_kb: float = _given(96, "kB", f"{_IMG2DATASET}: 130 MB/s at 1,350 images/s, not resized")
    image_megapixels: float = _given(0.5, "Mpx", "assumed: 96 kB at 1.5 bits a pixel")
    decode_ms: float = _given(4.6, "ms/Mpx", "measured: `load_image` on one core, JPEG")
    prepare_ms: float = _given(15, "ms", "measured: RT-DETR's image processor (PIL, 640x640) on one core")
    detections: float = _given(
        108, "images/s", f"{_RTDETR} R50 on a T4 with TensorRT FP16; assumed of an A100 in PyTorch, as the code has it"
    )
    boxes_per_image: float = _given(0.5, "boxes", "assumed: persons found with a confidence of 0.5 or more")
    posed_per_kept: float = _given(2, "persons", "assumed: of persons that pass the box criteria, half pass the rest")
    poses: float = _given(944, "persons/s", f"{_VITPOSE}-B; that its GPU is an A100 is assumed")
    captions_7b: float = _given(2.6, "captions/s", f"{_VLLM_7B}: A100, image of 640x480, 128 tokens in, 128 out")
    captions_72b: float = _given(
        0.275, "captions/s", f"{_VLLM_72B}: the same on 4 A100, 1.1 a second; for one of them"
    )
    parameters_7b: float = _given(8.3, "billion", "Qwen2.5-VL-7B, its card, with the vision encoder")
    parameters_32b: float = _given(33.5, "billion", "Qwen2.5-VL-32B, its card")
    parameters_72b: float = _given(73.4, "billion", "Qwen2.5-VL-72B, its card")
    attempts: float = _given(1.1, "requests", "assumed: one caption of ten is asked for twice")
    crop_kb: float = _given(40, "kB", "measured: drawn persons of 480x160, JPEG quality 95, 4:4:4")
    reject_bytes: float = _given(100, "bytes", "assumed; measured 70 on made-up URLs, Zstandard")
    thumbnail_kb: float = _given(2.2, "kB", "measured: drawn persons, 128 pixels high, JPEG quality 80")
    marker_kb: float = _given(1.5, "kB", "measured: marker of a shard")
    hash_bytes: float = _given(52, "bytes", "measured: peak a URL while 5 M hashes are sorted in (8 at rest)")
    judge_us: float = _given(15, "us", "measured: to judge and hash a row of the table, on one core")
    compare_bytes: float = _given(800, "bytes", "measured: peak a person, 700 to read and 100 to compare")
    compare_us: float = _given(50, "us", "measured: to compare a person, whatever their number")
    compare_ns: float = _given(0.15, "ns", "measured on 500,000 random hashes: the same, for each one before it")
    digest_gb: float = _given(1.4, "GB/s", "measured: SHA-256 on one core; a slower disk counts instead")
    gpu_dollars_per_hour: float = _given(1.79, "$/h", f"{_VLLM_7B}: A100 on demand, as its queries per dollar imply")
    core_dollars_per_hour: float = _given(0.05, "$/h", "assumed")
    gb_dollars_per_month: float = _given(0.02, "$/GB", "assumed: object storage")
    rows_per_tar: int = _given(10_000, "rows", "chosen, see the table of shards")


@dataclass(frozen=True)
class Plan:
    """What follows from the inputs."""

    inputs: Inputs

    @property
    def images(self) -> float:
        return self.inputs.urls * self.inputs.fetched_share

    @property
    def boxes(self) -> float:
        return self.images * self.inputs.boxes_per_image

    @property
    def posed(self) -> float:
        return self.inputs.persons * self.inputs.posed_per_kept

    @property
    def requests(self) -> float:
        """To each of the two captioners."""
        return self.inputs.persons * self.inputs.attempts

    @property
    def captions_32b(self) -> float:
        """Captions/s of one GPU, if the time of a caption is in proportion to the parameters, as it is from 7B to 72B:
        the mean of what both say."""
        given = self.inputs
        by_7b = given.captions_7b * given.parameters_7b / given.parameters_32b
        by_72b = given.captions_72b * given.parameters_72b / given.parameters_32b
        return (by_7b + by_72b) / 2

    @property
    def fetch_hours(self) -> float:
        return self.inputs.urls / self.inputs.rows_per_fetcher / 3600

    @property
    def detect_hours(self) -> float:
        return self.images / self.inputs.detections / 3600

    @property
    def pose_hours(self) -> float:
        return self.posed / self.inputs.poses / 3600

    @property
    def caption_hours_7b(self) -> float:
        return self.requests / self.inputs.captions_7b / 3600

    @property
    def caption_hours_32b(self) -> float:
        return self.requests / self.captions_32b / 3600

    @property
    def gpu_hours(self) -> float:
        return self.detect_hours + self.pose_hours + self.caption_hours_7b + self.caption_hours_32b

    @property
    def feeding_ms(self) -> float:
        """One core's work to give the detector an image: its actor decodes it again and brings it to size."""
        return self.inputs.image_megapixels * self.inputs.decode_ms + self.inputs.prepare_ms

    @property
    def core_hours(self) -> float:
        """Of decoding, once in the block `decode` and once to detect, and of bringing to size."""
        decode_ms = self.inputs.image_megapixels * self.inputs.decode_ms
        return self.images * (decode_ms + self.feeding_ms) / 3.6e6

    @property
    def tars(self) -> int:
        return math.ceil(self.inputs.urls / self.inputs.rows_per_tar)

    @property
    def fetched_tb(self) -> float:
        return self.images * self.inputs.image_kb / 1e9

    @property
    def part_gb(self) -> float:
        """Fetched images of one of the table's files."""
        return 1000 * self.fetched_tb / self.inputs.table_files

    @property
    def crops_gb(self) -> float:
        return self.inputs.persons * self.inputs.crop_kb / 1e6

    @property
    def rejects_gb(self) -> float:
        rows = self.inputs.urls - self.images + max(self.images, self.boxes)
        return rows * self.inputs.reject_bytes / 1e9

    @property
    def thumbnails_gb(self) -> float:
        return (self.boxes - self.inputs.persons) * self.inputs.thumbnail_kb / 1e6

    @property
    def compare_hours(self) -> float:
        persons = self.inputs.persons
        return persons * (self.inputs.compare_us * 1e-6 + persons / 2 * self.inputs.compare_ns * 1e-9) / 3600

    @property
    def gpu_dollars(self) -> float:
        return self.gpu_hours * self.inputs.gpu_dollars_per_hour

    @property
    def core_dollars(self) -> float:
        hours = self.fetch_hours * self.inputs.fetcher_cores + self.core_hours
        return hours * self.inputs.core_dollars_per_hour

    @property
    def storage_dollars(self) -> float:
        """A month of persons, captioned persons and rejected rows, and of eight parts of what is fetched."""
        kept = 2 * self.crops_gb + self.rejects_gb + 8 * self.part_gb
        return kept * self.inputs.gb_dollars_per_month

    @property
    def dollars(self) -> float:
        return self.gpu_dollars + self.core_dollars + self.storage_dollars
