"""Starting weights that a person names: a file for one base network, or a folder with a file for each."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from repro.errors import ReproError

SUFFIXES = (".pth", ".pt")
NAMES = ("none", "imagenet")  # what `load_weights` takes besides files; a folder of such a name needs a path, ./none


def weights_for(weights: str, network: str) -> str:
    """What `load_weights` takes for a base network: its file where `weights` is a folder, else `weights` as it is.

    In a folder a file has the network's name: resnet50.pth, or resnet50.pt. ReproError where there is none.
    """
    if weights in NAMES or not Path(weights).is_dir():
        return weights
    check_weights(weights, [network])
    return str(next(path for path in _files(weights, network) if path.is_file()))


def check_weights(weights: str, networks: Collection[str]) -> None:
    """ReproError where `weights` is a file and there are several base networks, or a folder that lacks some of them.

    Whether a file fits its network, and whether it exists, is for `load_weights` to say.
    """
    path = Path(weights)
    if weights in NAMES or not (path.is_dir() or (path.is_file() and len(networks) > 1)):
        return
    if path.is_dir():
        missing = [n for n in networks if not any(file.is_file() for file in _files(weights, n))]
        what = f"the folder {weights} lacks weights"
    else:
        missing = [n for n in networks if n != path.stem]
        what = f"{weights} is a single file, and {len(networks)} base networks start from weights: give a folder"
    if missing:
        raise ReproError(f"{what}: it needs a .pth or .pt file for each base network, missing: {', '.join(missing)}")


def _files(folder: str, network: str) -> list[Path]:
    return [Path(folder) / f"{network}{suffix}" for suffix in SUFFIXES]
