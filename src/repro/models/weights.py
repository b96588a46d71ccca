"""Pre-trained weights into a backbone: every weight arrives, or the load fails and says why."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from repro.errors import ReproError
from repro.models import BACKBONES
from repro.models.base import Backbone

# All that a file may hold beyond the backbone: torchvision's names and that of published BN-Inceptions.
CLASSIFIER = ("fc.", "classifier.", "last_linear.")
HEADS = ("fc", "last_linear")  # two names that published files use for the same layer
# Where torchvision has no ImageNet weights: the file that the field uses (Cadene's port of the Caffe model).
PUBLISHED = {"bn_inception": "http://data.lip6.fr/cadene/pretrainedmodels/bn_inception-52deb4733.pth"}
WRAPPERS = ("state_dict", "model")  # keys under which training scripts keep the weights


@dataclass(frozen=True)
class LoadReport:
    """What became of each weight."""

    source: str
    loaded: tuple[str, ...] = ()
    adapted: tuple[str, ...] = ()  # the first convolution, averaged over RGB
    skipped: tuple[str, ...] = ()  # the file's classifier
    absent: tuple[str, ...] = ()  # batch counters, which files written before PyTorch 0.4.1 lack; nothing reads them


def load_weights(module: nn.Module, weights: str | Path | Mapping[str, Tensor]) -> LoadReport:
    """Load weights into `module`: "none", "imagenet" (torchvision's IMAGENET1K_V1 or `PUBLISHED`, by name), a file or
    a state dict.

    Files: a state dict in the names of torchvision or of the published BN-Inception, also under "state_dict" or
    "model", also with the prefix "module.". The head may be called fc or last_linear, batch norms may be (1, C).
    A first convolution with more inputs (2L flow channels) gets the mean over RGB in every channel, not rescaled
    (Wang et al., ECCV 2016, Sec. 3.2). Raises ReproError for anything else that does not fit; then nothing is loaded.
    """
    if isinstance(weights, Mapping) or str(weights) not in ("none", "imagenet"):
        return fit_weights(module, *read_weights(weights))
    return LoadReport("none") if str(weights) == "none" else fit_weights(module, *_imagenet(module))


def fit_weights(module: nn.Module, found: dict[str, Tensor], source: str) -> LoadReport:
    """Load a state dict that came from `source` into `module`, as `load_weights` says."""
    target = module.state_dict()
    found = _in_our_form(found, target)
    first = next((f"{name}.weight" for name, m in module.named_modules() if isinstance(m, nn.Conv2d)), "")
    unknown = [key for key in found if key not in target]
    skipped = tuple(key for key in unknown if key.startswith(CLASSIFIER))
    if len(skipped) < len(unknown):
        extra = [key for key in unknown if key not in skipped]
        raise ReproError(
            f"{source} holds weights that this network has not: {_some(extra)}; give a file of this network"
        )
    missing = [key for key in target if key not in found]
    absent = tuple(key for key in missing if key.endswith(".num_batches_tracked"))
    if len(absent) < len(missing):
        needed = [key for key in missing if key not in absent]
        raise ReproError(
            f"{source} lacks weights that this network needs: {_some(needed)}; give a file of this network"
        )
    adapted: tuple[str, ...] = ()
    state = {key: found[key] for key in target if key in found}
    if first in state and state[first].ndim == 4 and state[first].shape[1] == 3 != target[first].shape[1]:
        state[first] = averaged(state[first], target[first].shape[1])
        adapted = (first,)
    _check_shapes(source, state, target)
    module.load_state_dict(state, strict=not absent)
    return LoadReport(source, tuple(key for key in state if key not in adapted), adapted, skipped, absent)


def averaged(weight: Tensor, channels: int) -> Tensor:
    """Average a first convolution (out, 3, k, k) over RGB and repeat it, not rescaled: (out, channels, k, k)."""
    return weight.mean(dim=1, keepdim=True).expand(-1, channels, -1, -1)


def _in_our_form(found: dict[str, Tensor], target: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give the head the name that it has here, and vectors stored as (1, C) one axis."""
    out: dict[str, Tensor] = {}
    for key, value in found.items():
        head, _, rest = key.partition(".")
        renamed = [f"{other}.{rest}" for other in HEADS if head in HEADS and key not in target]
        name = next((n for n in renamed if n in target and n not in found), key)
        is_row = value.ndim == 2 and len(value) == 1 and name in target and target[name].ndim == 1
        out[name] = value[0] if is_row else value
    return out


def _check_shapes(source: str, state: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    wrong = [key for key in state if state[key].shape != target[key].shape]
    classifier = [key for key in wrong if key.startswith(CLASSIFIER)]
    if wrong and wrong == classifier:
        have, want = len(state[wrong[-1]]), len(target[wrong[-1]])
        raise ReproError(f"{source} is for {have} classes, this model has {want}: give a file for {want} classes")
    if wrong:
        sizes = f"{tuple(state[wrong[0]].shape)} there, {tuple(target[wrong[0]].shape)} here"
        raise ReproError(f"{source} is of other sizes ({sizes}): {_some(wrong)}; check network, width and channels")


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def _imagenet(module: nn.Module) -> tuple[dict[str, Tensor], str]:
    if not isinstance(module, Backbone) or module.width != 1:
        raise ReproError("ImageNet weights exist for whole backbones of width 1 only: set width 1 or weights 'none'")
    if module.name not in BACKBONES:
        raise ReproError(f"there are no ImageNet weights for {module.name}: set weights 'none' or a file")
    return fetch_weights(PUBLISHED.get(module.name) or torchvision_url(module.name))


def torchvision_url(name: str) -> str:
    """Return the address of a torchvision network's IMAGENET1K_V1 weights."""
    return str(torchvision.models.get_model_weights(name).IMAGENET1K_V1.url)


def fetch_weights(url: str) -> tuple[dict[str, Tensor], str]:
    """Return ImageNet weights and their source, downloaded once to torch's folder; ReproError when that fails."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            digest = path.stem.rsplit("-", 1)[-1]
            torch.hub.download_url_to_file(url, str(path), hash_prefix=digest, progress=sys.stderr.isatty())
        except (OSError, RuntimeError) as error:  # URLError is an OSError; a wrong digest is a RuntimeError
            raise ReproError(f"cannot download {url} ({error}): put the file at {path}") from error
    return _read(path), f"imagenet ({path.name})"


def read_weights(weights: str | Path | Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Return a state dict, given or read from a file, and what to call it; ReproError for a file that holds none."""
    if isinstance(weights, Mapping):
        return dict(weights), "the given state dict"
    return _read(Path(weights)), str(weights)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ReproError(f"no weights file at {path}: give 'none', 'imagenet' or the path of a file")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ReproError(f"cannot read weights from {path} ({reason}): replace the file") from error
    for wrapper in WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
    if not (isinstance(found, dict) and found and all(isinstance(v, Tensor) for v in found.values())):
        raise ReproError(f"{path} holds no weights by name: save a model's state_dict()")
    if all(key.startswith("module.") for key in found):  # DataParallel's prefix
        found = {key.removeprefix("module."): value for key, value in found.items()}
    return found
