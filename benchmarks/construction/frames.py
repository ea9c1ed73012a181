"""Input images of the construction benchmark: drawn persons in frames of 320x240, as JPEG files.

Drawing a person takes 60 ms, so a pool of persons is drawn once. Each frame has none, one or two of them on a blurred
background of random colours, at a random place, size and brightness: no two frames are equal, and one takes 2 ms.
Frame `n` depends only on the seed, the size of the pool and `n`.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from dataset_scripts.synthetic_persons import PersonSampler


FRAME_SIZE = (320, 240)
"""Width and height. A frame whose shorter side is below 256 is one tile to SSD-MobileNetV2."""
PERSON_SIZE = (216, 72)
"""Height and width of the drawn persons."""
MIN_SCALE = 0.75
PERSONS_IN_FRAME, SHARES = (0, 1, 2), (0.1, 0.6, 0.3)
JPEG_QUALITY = 90


class FrameSampler:
    """Frames of one seed, by number.

    Args:
        seed (`int`): of persons and frames.
        persons (`int`): size of the pool.
    """

    def __init__(self, seed: int, persons: int):
        self.seed = seed
        sampler = PersonSampler(seed, "train")
        self.persons = [sampler.draw(index, 0, PERSON_SIZE)[0] for index in range(persons)]

    def draw(self, number: int) -> Image.Image:
        """Returns: the frame."""
        rng = np.random.default_rng([self.seed, number])
        width, height = FRAME_SIZE
        colours = rng.integers(40, 216, (6, 8, 3), dtype=np.uint8)
        frame = Image.fromarray(colours).resize(FRAME_SIZE, Image.Resampling.BICUBIC)
        persons = int(rng.choice(PERSONS_IN_FRAME, p=SHARES))
        for place in range(persons):
            person = self.persons[int(rng.integers(len(self.persons)))]
            scale, brightness = rng.uniform(MIN_SCALE, 1), rng.uniform(0.7, 1.2)
            size = (round(scale * person.width), round(scale * person.height))
            person = person.resize(size, Image.Resampling.BILINEAR).point(lambda value, by=brightness: value * by)
            # Each person has its own part of the width, so that nobody is occluded.
            room = width // persons
            left = place * room + int(rng.integers(room - size[0] + 1))
            frame.paste(person, (left, int(rng.integers(height - size[1] + 1))))
        return frame


def write_frames(sampler: FrameSampler, folder: Path, start: int, stop: int) -> None:
    """Write frames `start` to `stop - 1` into a new folder."""
    folder.mkdir(parents=True)
    for number in range(start, stop):
        sampler.draw(number).save(folder / f"{number:06d}.jpg", quality=JPEG_QUALITY)
