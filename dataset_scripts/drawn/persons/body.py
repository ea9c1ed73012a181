"""The body of a person: build, a posed 2.5-D skeleton, and the shades of colours of one identity."""

from dataclasses import dataclass

import numpy as np

from .attributes import COLORS, HAIR_COLORS, HAND_BAGS, SKIN_TONES, Person, View
from .drawing import Array, Point


PITCH = 0.10  # the camera looks down a little, so nearer points are lower in the image

# Height, half width and half depth of the torso, in body units.
_TORSO = {
    "man": (
        (0.150, 0.040, 0.038), (0.164, 0.058, 0.042), (0.178, 0.092, 0.052), (0.192, 0.110, 0.058),
        (0.215, 0.118, 0.065), (0.290, 0.113, 0.070), (0.380, 0.099, 0.063), (0.450, 0.097, 0.067),
        (0.520, 0.098, 0.069),
    ),
    "woman": (
        (0.150, 0.034, 0.034), (0.164, 0.048, 0.038), (0.178, 0.076, 0.047), (0.192, 0.093, 0.054),
        (0.215, 0.100, 0.060), (0.275, 0.097, 0.074), (0.365, 0.079, 0.057), (0.440, 0.097, 0.067),
        (0.520, 0.104, 0.075),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Style:
    """Appearance that no attribute names: build, skin, and the exact shades of colours."""

    girth: float
    head: float
    skin: Array
    hair: Array
    seed: int
    carry_side: int

    @classmethod
    def of(cls, person: Person) -> "Style":
        rng = np.random.default_rng(person.style_seed)
        girth = 1.0 + 0.13 * float(np.clip(rng.normal(), -1.6, 2.0))
        head = float(rng.uniform(0.96, 1.06))
        skin = np.asarray(SKIN_TONES[int(rng.integers(len(SKIN_TONES)))], dtype=np.float32) / 255.0
        tint = 1.0 + 0.05 * rng.standard_normal(3).astype(np.float32)
        hair = np.asarray(HAIR_COLORS.get(person.hair_color, (60, 50, 45)), dtype=np.float32) / 255.0
        return cls(girth, head, skin * (0.98 + 0.04 * rng.random()), hair * tint, person.style_seed,
                   1 if rng.random() < 0.5 else -1)  # fmt: skip

    def shade_of(self, name: str, part: int) -> Array:
        """Returns: this identity's shade of a named colour. Each `part` has a different shade."""
        rng = np.random.default_rng((self.seed, part))
        base = np.asarray(COLORS[name], dtype=np.float32) / 255.0
        shade = base * (1.0 + 0.09 * rng.standard_normal()) + 0.018 * rng.standard_normal(3)
        return np.clip(shade, 0.04, 0.97).astype(np.float32)


@dataclass(frozen=True)
class Joint:
    """A point of the skeleton in the image. `depth` grows toward the camera."""

    x: float
    y: float
    depth: float

    @property
    def point(self) -> Point:
        return (self.x, self.y)

    def moved(self, x: float, y: float) -> "Joint":
        return Joint(self.x + x, self.y + y, self.depth)


@dataclass(frozen=True)
class Limb:
    """Three joints of an arm (shoulder, elbow, wrist) or a leg (hip, knee, ankle)."""

    start: Joint
    middle: Joint
    end: Joint
    side: int  # 1 is the person's left

    @property
    def depth(self) -> float:
        return (self.start.depth + self.middle.depth + self.end.depth) / 3

    def moved(self, x: float, y: float) -> "Limb":
        return Limb(self.start.moved(x, y), self.middle.moved(x, y), self.end.moved(x, y), self.side)


class Body:
    """A posed body seen at one angle.

    Args:
        person (`Person`): determines the build.
        view (`View`): determines the angle and the step.
        rng (`np.random.Generator`): draws the small differences between two images of one pose.
    """

    def __init__(self, person: Person, view: View, rng: np.random.Generator) -> None:
        self.style = Style.of(person)
        self.yaw = (view.yaw + np.pi) % (2 * np.pi) - np.pi
        self.cos, self.sin = float(np.cos(view.yaw)), float(np.sin(view.yaw))
        self.woman = person.gender == "woman"
        self.lean = float(rng.uniform(-0.012, 0.02)) + (0.014 if view.pose == "walking" else 0.0)
        # In side views bags are on the near side, otherwise on the identity's preferred side.
        self.carry_side = self.style.carry_side
        if view.side in ("left", "right"):
            self.carry_side = -1 if self.sin > 0 else 1
        hand_free = person.bag not in HAND_BAGS
        self.held_side = self.carry_side if hand_free and view.side in ("left", "right") else -self.carry_side
        self.drop, self.legs = self._legs(view, rng)
        self.arms = self._arms(person, view, rng)

    def project(self, x: float, y: float, z: float) -> Joint:
        """Returns: the joint at body coordinates `x` (the person's left), `y` (down) and `z` (forward)."""
        depth = z * self.cos - x * self.sin
        return Joint(x * self.cos + z * self.sin, y + PITCH * depth, depth)

    def half(self, lateral: float, deep: float) -> float:
        """Returns: half the visible width of an elliptic tube."""
        return float(np.hypot(lateral * self.cos, deep * self.sin))

    def around(self, across: Array) -> Array:
        """Returns: the angle of a visible point around the body: 0 in front, pi/2 on the person's left, pi behind."""
        return (np.arcsin(across) - self.yaw + np.pi) % (2 * np.pi) - np.pi

    def torso(self, ease: float, bottom: float) -> tuple[list[float], list[float], list[float]]:
        """Returns: the outline (heights, centres, half widths) of a garment on the torso down to `bottom`."""
        heights, half_widths, half_depths = zip(*_TORSO["woman" if self.woman else "man"], strict=True)
        ys, centers, halves = [], [], []
        for height in (*(height for height in heights if height < bottom), bottom):
            lateral = float(np.interp(height, heights, half_widths))
            deep = float(np.interp(height, heights, half_depths))
            girth = 1.0 + (self.style.girth - 1.0) * (0.55 if height < 0.2 else 1.0)
            loose = ease * float(np.interp(height, [0.15, 0.2, 0.52], [0.35, 0.8, 1.1]))
            ys.append(height + self.drop)
            centers.append(self.spine(height))
            halves.append(self.half(lateral * girth + loose, deep * girth + loose))
        return ys, centers, halves

    def spine(self, y: float) -> float:
        """Returns: the `x` of the middle of the body at height `y`, with lean and curvature."""
        lean = self.lean * (0.5 - y) * 2.0
        curve = 0.010 * float(np.sin((y - 0.15) * 9.0))
        return (lean + curve) * self.sin

    def _legs(self, view: View, rng: np.random.Generator) -> tuple[float, list[Limb]]:
        legs = []
        if view.pose == "walking":
            swing = np.deg2rad(20.0) * view.phase
            thighs = {1: swing, -1: -swing}
        else:
            stance = float(rng.uniform(-0.07, 0.07))
            thighs = {1: stance, -1: -0.5 * stance}
        spread = float(rng.uniform(0.01, 0.035)) if view.pose == "standing" else 0.0
        for side, thigh in thighs.items():
            bend = 0.04 + max(-thigh, 0.0) * 0.9 + 0.05 * float(rng.random())
            hip_x = side * (0.050 if self.woman else 0.052)
            knee_x = hip_x + side * spread * 0.5
            knee = (knee_x, 0.505 + 0.232 * np.cos(thigh), 0.232 * np.sin(thigh))
            shank = thigh - bend
            ankle_x = hip_x + side * (spread if view.pose == "standing" else -0.012)
            ankle = (ankle_x, knee[1] + 0.222 * np.cos(shank), knee[2] + 0.222 * np.sin(shank))
            legs.append(Limb(self.project(hip_x, 0.505, 0.0), self.project(*knee), self.project(*ankle), side))
        # The lower foot stands on the ground, so a stride lowers the body.
        drop = 0.957 - max(leg.end.y - PITCH * leg.end.depth for leg in legs)
        return drop, sorted((leg.moved(0.0, drop) for leg in legs), key=lambda leg: leg.depth)

    def _arms(self, person: Person, view: View, rng: np.random.Generator) -> list[Limb]:
        arms = []
        for side in (1, -1):
            swing = -0.42 * view.phase * side if view.pose == "walking" else float(rng.uniform(-0.1, 0.16))
            bend = float(rng.uniform(0.15, 0.5)) if view.pose == "walking" else float(rng.uniform(0.06, 0.3))
            away = float(rng.uniform(0.11, 0.20))
            inward = 0.0
            if side == self.carry_side and person.bag in HAND_BAGS:
                swing, bend, away = (-0.25 if person.bag == "suitcase" else 0.05), 0.10, 0.20
            elif side == self.held_side and person.held in ("phone", "cup", "bottle"):
                swing, bend, inward = 0.22, {"phone": 2.0, "cup": 1.75, "bottle": 1.3}[person.held], 0.35
            elif side == self.held_side and person.held == "umbrella":
                swing, bend, away = 0.06, 0.25, 0.20
            shoulder_x = side * (0.083 if self.woman else 0.097) * (0.5 + 0.5 * self.style.girth)
            shoulder = (shoulder_x, 0.214 + self.drop, 0.0)
            upper, fore = 0.160, 0.140
            elbow = (
                shoulder[0] + side * upper * np.sin(away) * np.cos(swing),
                shoulder[1] + upper * np.cos(swing) * np.cos(away),
                upper * np.sin(swing),
            )
            angle = swing + bend
            wrist = (
                elbow[0] + side * fore * (0.5 * np.sin(away) * np.cos(angle) - inward * np.sin(bend)),
                elbow[1] + fore * np.cos(angle),
                elbow[2] + fore * np.sin(angle),
            )
            arm = Limb(self.project(*shoulder), self.project(*elbow), self.project(*wrist), side)
            arms.append(arm.moved(self.spine(0.2), 0.0))
        return sorted(arms, key=lambda arm: arm.depth)
