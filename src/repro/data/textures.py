"""Still fractal textures: labelled images for pre-training where no ImageNet weights can be had.

A class is a system of contracting affine maps; an image is the density of its attractor with the maps a little changed,
turned, mirrored and painted in random colours (after Kataoka et al., Pre-training without Natural Images, ACCV 2020,
and for the choice of the maps Anderson and Farrell, Improving Fractal Pre-training, WACV 2022). Images differ in mean
colour and contrast, but in the same way for every class: only the shape tells the class. All of it is generated; a
training and a test set of the same seed share their classes and no image.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repro.data.clips import Sampling, TrainingSamples
from repro.data.sampling import sample_rng
from repro.data.transforms import apply_view, random_view
from repro.errors import ReproError

Array = NDArray[np.float64]

PARTS = ("train", "test")
MAPS = (3, 5)  # affine maps of a class, both included
SINGULAR = (0.35, 0.8)  # singular values of a map; below 1, so that the attractor exists
CHANGE = 0.08  # standard deviation of an image's change of its class's maps
TURN = np.pi / 9  # an image's largest turn, radians
WALKERS, WARM_UP, STEPS = 400, 12, 32  # points of the attractor: WALKERS x STEPS
# Grey levels: mean of a channel; standard deviation of the strongest channel. Hardly a pixel leaves 0-255: clipping
# would move the means of the classes that fill little of the image.
COLOUR, CONTRAST = (105.0, 150.0), (18.0, 28.0)


@lru_cache(maxsize=1024)
def system(label: int, seed: int) -> tuple[Array, Array, Array]:
    """The maps x -> A x + b of a class: A (m, 2, 2), b (m, 2), and how often each is applied (m,)."""
    rng = sample_rng(seed, label, "textures: class")
    m = int(rng.integers(MAPS[0], MAPS[1] + 1))
    left, right = (_rotation(rng.uniform(-np.pi, np.pi, m)) for _ in range(2))
    sigma = rng.uniform(*SINGULAR, (m, 2)) * rng.choice((-1.0, 1.0), (m, 2))
    matrices = left @ (sigma[:, :, None] * right)
    share = np.abs(sigma.prod(axis=1))  # a map's share of the area
    return matrices, rng.uniform(-1, 1, (m, 2)), share / share.sum()


def texture(label: int, seed: int, part: str, number: int, size: int = 64) -> Tensor:
    """Image `number` of a class, (3, size, size) uint8 RGB. The same arguments give the same image."""
    rng = sample_rng(seed, number, f"textures: {part}, class {label}")
    luma = _density(label, seed, size, rng)  # (size, size), mean 0, standard deviation 1
    tint = rng.standard_normal(3)
    tint *= rng.uniform(*CONTRAST) / np.abs(tint).max()
    image = rng.uniform(*COLOUR, 3)[:, None, None] + tint[:, None, None] * luma
    image += rng.normal(0, 4, image.shape)  # grain, so that the background is not exactly flat
    return torch.from_numpy(np.clip(np.rint(image), 0, 255).astype(np.uint8))


def _density(label: int, seed: int, size: int, rng: np.random.Generator) -> Array:
    matrices, shifts, share = system(label, seed)
    matrices = matrices * (1 + CHANGE * rng.standard_normal(matrices.shape))
    shifts = shifts + CHANGE * rng.standard_normal(shifts.shape)
    norm = np.linalg.norm(matrices, ord=2, axis=(1, 2))
    matrices = matrices * np.minimum(1, 0.9 / norm)[:, None, None]  # still a contraction after the change
    choices = rng.choice(len(share), size=(WARM_UP + STEPS, WALKERS), p=share)
    points, path = np.zeros((WALKERS, 2)), []
    for chosen in choices:  # the chaos game: every walker applies a random map at every step
        points = np.einsum("nij,nj->ni", matrices[chosen], points) + shifts[chosen]
        path.append(points)
    cloud = np.concatenate(path[WARM_UP:]) @ _rotation(rng.uniform(-TURN, TURN, 1))[0].T
    cloud[:, 0] *= rng.choice((-1.0, 1.0))
    low, high = np.quantile(cloud, (0.01, 0.99), axis=0)
    extent = float((high - low).max()) + 1e-9
    place = (cloud - (low + high) / 2) / extent * rng.uniform(0.75, 0.95) + 0.5 + rng.uniform(-0.04, 0.04, 2)
    counts = np.histogram2d(place[:, 1], place[:, 0], bins=size, range=((0, 1), (0, 1)))[0]
    # The share of the image that a class fills must not show in mean or contrast; dense pixels are cut (to 4 at most).
    return _standardised(np.minimum(_standardised(np.log1p(counts)), 2.5))


def _standardised(x: Array) -> Array:
    return np.asarray((x - x.mean()) / (x.std() + 1e-9))


def _rotation(angles: Array) -> Array:
    c, s = np.cos(angles), np.sin(angles)
    return np.stack([np.stack([c, -s], -1), np.stack([s, c], -1)], -2)


class Textures(TrainingSamples):
    """Images of `classes` classes, `per_class` each, as samples of one snippet that `repro.training.train` can take.

    Addressed like training clips by (epoch, position): `rgb` (1, 3, crop, crop) uint8, randomly cropped and mirrored by
    (seed, epoch, position), and `label`. `image(position)` is the plain picture. `labels` (N,) lists the classes.
    """

    def __init__(
        self, part: str, *, classes: int = 32, per_class: int = 100, size: int = 64, crop: int = 56, seed: int = 0
    ) -> None:
        if part not in PARTS:
            raise ReproError(f"unknown part '{part}' of the textures: use one of {', '.join(PARTS)}")
        if classes < 2 or per_class < 1:
            raise ReproError(f"{classes} classes of {per_class} textures: use two or more classes of one or more")
        sampling = Sampling(1, 1, crop, scales=(1.0, 0.875), streams=("rgb",))  # one snippet; the 1 field is not used
        self.part, self.size, self.seed, self.sampling = part, size, seed, sampling
        self.labels: list[int] = np.tile(np.arange(classes), per_class).tolist()
        self.classes = classes
        self._drawn: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, position: int) -> Tensor:
        """The picture at a position, (3, size, size) uint8; drawn once."""
        if position not in self._drawn:
            number, label = divmod(position, self.classes)
            self._drawn[position] = texture(label, self.seed, self.part, number, self.size)
        return self._drawn[position]

    def views(self) -> TextureViews:
        """The same pictures for testing, whole."""
        return TextureViews(self)

    def ids(self) -> list[str]:
        """A name for every picture: part, class and number."""
        return [f"{self.part}/{position % self.classes}/{position // self.classes}" for position in range(len(self))]

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Tensor]:
        epoch, position = item
        rng = sample_rng(self.seed, epoch, f"textures: view {position}")
        view = random_view(self.size, self.size, self.sampling.crop, self.sampling.scales, rng)
        rgb = apply_view(self.image(position)[None], view, self.sampling.crop, is_flow=False)
        return {"rgb": rgb, "label": torch.tensor(self.labels[position])}


class TextureViews:
    """Whole pictures as `repro.evaluation.score` takes its samples: `rgb` (1, 1, 3, size, size) uint8."""

    def __init__(self, textures: Textures) -> None:
        self.textures = textures

    def __len__(self) -> int:
        return len(self.textures)

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        return {"rgb": self.textures.image(position)[None, None]}
