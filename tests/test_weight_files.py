"""Starting weights by file and by folder: what each base network gets, and what is said when one goes without."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from repro.errors import ReproError
from repro.models import backbone
from repro.models.weight_files import check_weights, weights_for
from repro.papers import PAPERS

HETEROGENEOUS = ("resnet50", "resnet101", "resnet152", "bn_inception")


def save(network: str, path: Path) -> dict[str, Tensor]:
    """Write random weights of a quarter-width base network; return its convolutions."""
    state = backbone(network, width=0.25).state_dict()
    torch.save(state, path)
    return {name: value for name, value in state.items() if value.ndim == 4}


@pytest.mark.parametrize(
    ("paper", "variant", "network", "suffix"),
    [
        ("stilt", "stil-snippets@resnet34", "resnet34", ".pth"),
        ("st_resnet", "appearance", "resnet50", ".pt"),
        ("heterogeneous", "spatial-bn-inception", "bn_inception", ".pth"),
        ("heterogeneous", "temporal-resnet50", "resnet50", ".pt"),
    ],
)
def test_a_network_takes_its_file_from_a_folder(
    paper: str, variant: str, network: str, suffix: str, tmp_path: Path
) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    saved = save(network, folder / f"{network}{suffix}")
    found = PAPERS[paper].experiments("smoke", "motionshapes", str(folder))
    assert found[variant].backbone == network and found[variant].weights == str(folder)
    ours = found[variant].build(3).state_dict().values()
    arrived = [any(x.shape == v.shape and torch.equal(x, v) for x in ours) for v in saved.values()]
    assert arrived.count(False) <= 1, "all but a first convolution for flow"
    alone = PAPERS[paper].experiments("smoke", "motionshapes", str(folder / f"{network}{suffix}"))[variant]
    theirs = alone.build(3).state_dict()
    assert all(torch.equal(v, theirs[k]) for k, v in found[variant].build(3).state_dict().items() if v.ndim == 4)


def test_a_folder_without_the_network_s_file(tmp_path: Path) -> None:
    (tmp_path / "resnet50.pth").touch()
    (tmp_path / "resnet101.txt").touch()
    found = PAPERS["heterogeneous"].experiments("smoke", "motionshapes", str(tmp_path))
    with pytest.raises(ReproError, match=r"lacks weights: it needs .* missing: resnet101$") as error:
        found["spatial-resnet101"].build(3)
    assert "\n" not in str(error.value)
    found["temporal-resnet50-scratch"].build(3)  # needs none


def test_what_serves_which_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder, file = tmp_path / "folder", tmp_path / "resnet101.pth"
    folder.mkdir()
    file.touch()
    for weights in ("none", "imagenet", "nowhere.pth"):
        check_weights(weights, HETEROGENEOUS)  # `load_weights` says that there is no such file
        assert weights_for(weights, "resnet50") == weights
    check_weights(str(file), ["vgg19"])
    assert weights_for(str(file), "vgg19") == str(file)
    with pytest.raises(ReproError) as error:
        check_weights(str(file), HETEROGENEOUS)
    assert str(error.value) == (
        f"{file} is a single file, and 4 base networks start from weights: give a folder: it needs a .pth or .pt file "
        "for each base network, missing: resnet50, resnet152, bn_inception"
    )
    for name in HETEROGENEOUS:
        with pytest.raises(ReproError, match=f"missing: .*{name}"):
            check_weights(str(folder), HETEROGENEOUS)
        (folder / f"{name}.pt").touch()
    check_weights(str(folder), HETEROGENEOUS)
    (tmp_path / "imagenet").mkdir()
    assert weights_for("imagenet", "resnet50") == "imagenet", "the name comes first"


@pytest.mark.parametrize("paper", PAPERS)
def test_experiments_know_the_weights_that_were_asked_for_and_keep_their_identity(paper: str) -> None:
    for preset in ("small", "paper"):
        experiments = PAPERS[paper].experiments
        asked = experiments(preset, "motionshapes", "none")
        assert {e.weights for e in asked.values()} == {"none"}
        by_default = experiments(preset, "motionshapes")
        assert {e.weights for e in by_default.values()} == {"auto"}
        own = next(iter(by_default.values())).config["weights"]
        for name, e in experiments(preset, "motionshapes", own).items():
            assert e.weights == own and e.identity() == by_default[name].identity()
