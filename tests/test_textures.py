"""The generated image set: learnable, not by colour, the same every time, and no image on both sides."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from torch import Tensor, nn

from repro.data.textures import Textures, system, texture
from repro.data.transforms import normalise_rgb
from repro.errors import ReproError
from repro.models import backbone
from repro.training import Recipe, train

CLASSES = 8


@pytest.fixture(scope="module")
def parts() -> tuple[Textures, Textures]:
    return Textures("train", classes=CLASSES, per_class=40), Textures("test", classes=CLASSES, per_class=25)


def pictures(part: Textures) -> Tensor:
    return torch.stack([part.image(i) for i in range(len(part))])


def test_images_are_the_same_every_time() -> None:
    image = texture(3, seed=0, part="train", number=5)
    assert image.shape == (3, 64, 64) and image.dtype == torch.uint8
    assert torch.equal(image, texture(3, seed=0, part="train", number=5))
    others = [texture(3, 0, "train", 6), texture(3, 0, "test", 5), texture(2, 0, "train", 5), texture(3, 1, "train", 5)]
    assert all(not torch.equal(image, other) for other in others)
    assert texture(3, 0, "train", 5, size=40).shape == (3, 40, 40)


def test_parts_share_classes_and_no_image(parts: tuple[Textures, Textures]) -> None:
    a, b = (pictures(part).flatten(1) for part in parts)
    assert sorted(set(parts[0].labels)) == sorted(set(parts[1].labels)) == list(range(CLASSES))
    assert np.bincount(parts[0].labels).tolist() == [40] * CLASSES
    assert len(torch.unique(torch.cat([a, b]), dim=0)) == len(a) + len(b)
    # Nor nearly the same, colours apart: 5 grey levels is more than the grain.
    grey_a, grey_b = ((x.float() - x.float().mean(1, keepdim=True)) for x in (a, b))
    nearest = torch.cdist(grey_b, grey_a).amin(1) / 64 / 3**0.5  # root mean square difference, grey levels
    assert nearest.min() > 5


def test_maps_contract() -> None:
    for label in range(20):
        matrices, shifts, share = system(label, seed=0)
        assert matrices.shape[1:] == (2, 2) and shifts.shape == (len(matrices), 2)
        assert np.linalg.norm(matrices, ord=2, axis=(1, 2)).max() <= 0.8 + 1e-9
        assert share.sum() == pytest.approx(1)


def test_colour_and_contrast_do_not_tell_the_class(parts: tuple[Textures, Textures]) -> None:
    def colours(part: Textures) -> np.ndarray:
        x = pictures(part).float()
        return torch.cat([x.mean((2, 3)), x.std((2, 3))], 1).numpy()

    forest = RandomForestClassifier(200, random_state=0).fit(colours(parts[0]), parts[0].labels)
    right = (forest.predict(colours(parts[1])) == parts[1].labels).mean()
    n = len(parts[1])
    values = torch.cat([pictures(part) for part in parts])
    assert ((values == 0) | (values == 255)).float().mean() < 1e-4  # hardly anything clipped
    assert right < 1 / CLASSES + 3 * np.sqrt(1 / CLASSES * (1 - 1 / CLASSES) / n)  # three standard errors


class Classifier(nn.Module):
    """A backbone of a quarter of the width and a linear layer, called as training calls its models."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = backbone("resnet18", width=0.25)
        self.head = nn.Linear(self.trunk.channels, CLASSES)

    def forward(self, rgb: Tensor, flow: None = None) -> dict[str, Tensor]:
        return {"class": self.head(self.trunk(rgb.flatten(0, 1)).mean((2, 3)))}


def test_a_quarter_width_network_learns_it(parts: tuple[Textures, Textures]) -> None:
    torch.manual_seed(0)
    model = Classifier()
    history = train(model, parts[0], Recipe(60, 32, 32, 0.03, schedule="cosine", warmup=5))
    assert history.losses[0] > 1.8
    model.eval()
    with torch.no_grad():
        scores = torch.cat([model(normalise_rgb(x)[:, None])["class"] for x in pictures(parts[1]).split(50)])
    right = (scores.argmax(1).numpy() == parts[1].labels).mean()
    assert right > 2 / CLASSES  # chance is 1 / CLASSES


def test_samples_depend_on_epoch_and_position_only(parts: tuple[Textures, Textures]) -> None:
    sample = parts[0][0, 9]
    assert sample["rgb"].shape == (1, 3, 56, 56) and sample["rgb"].dtype == torch.uint8
    assert int(sample["label"]) == 9 % CLASSES == parts[0].labels[9]
    again = Textures("train", classes=CLASSES, per_class=40)[0, 9]
    assert torch.equal(sample["rgb"], again["rgb"])
    assert any(not torch.equal(sample["rgb"], parts[0][epoch, 9]["rgb"]) for epoch in range(1, 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"part": "val"}, "unknown part"), ({"part": "train", "classes": 1}, "two or more classes")],
)
def test_wrong_arguments(options: dict[str, object], message: str) -> None:
    with pytest.raises(ReproError, match=message):
        Textures(**options)  # type: ignore[arg-type]
