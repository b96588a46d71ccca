"""Where the actor is in the frames of a test clip, for the class activation maps of the CCS chapter (claim ccs-17).

motionshapes knows its actors. Weizmann's camera stands still, so that a silhouette is what differs from the background;
a person who stays in place hides it, and it is then taken from a clip in which the same person crosses the picture.
T snippets, H W px.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from repro.data.catalog import Clip, Dataset
from repro.data.clips import TestViews
from repro.data.transforms import apply_view
from repro.evaluation import protocol
from repro.experiments import Experiment
from repro.flow.store import ClipStore

Array = np.ndarray[Any, Any]
CROSSING = ("jump", "run", "side", "skip", "walk")  # Weizmann's classes of people who cross the picture
DIFFERENT = 30  # grey levels in one colour at least: the actor
# Grey levels between the pictures' medians, beyond which two clips do not show the same background: 4.6 at most where
# they do, in 64 px frames, and 9.6 in the one clip for which there is none.
SAME_BACKGROUND = 7.0


class Seen(NamedTuple):
    """What the RGB stream sees of a test clip: frames (T, H, W, 3) uint8, and how much of each pixel is an actor's,
    (T, H, W) in 0..1, or None where nobody knows."""

    frames: Array
    actor: Array | None


def views_of(dataset: Dataset, experiment: Experiment) -> TestViews:
    """The test's snippets in one view: the protocol's on motionshapes, elsewhere the centre, so that all maps of a data
    set are of one size."""
    own = protocol(experiment.protocol)
    if dataset.name == "motionshapes" and own.views == "full":
        return own
    return TestViews(f"{own.name}, centre", own.snippets, "centre", own.chain)


def seen(dataset: Dataset, store: ClipStore, experiment: Experiment, clip: Clip) -> Seen:
    """The frames that the RGB stream gets of a stored test clip, cut as `views_of` has it, and the actors in them."""
    s, views = experiment.sampling, views_of(dataset, experiment)
    with store.open(clip.id) as stored:
        starts = (s.test_chain if views.chain else s.test_starts)(stored.n_frames, views.snippets)
        offset = s.flow_frames // 2 if s.frame_offset is None else s.frame_offset
        index = [int(i) for i in np.minimum(starts + offset, stored.n_frames - 1)]
        frames = stored.rgb(index)  # (T, 3, H, W)
        (view,) = views.of(stored.height, stored.width, s.crop)
    masks = actor_masks(dataset, store, clip, index)
    size = None if views.views == "full" else s.crop
    shown = apply_view(frames, view, size, is_flow=False).permute(0, 2, 3, 1).numpy()
    if masks is None:
        return Seen(shown, None)
    grey = torch.from_numpy(masks[:, None].astype(np.uint8) * 255)  # (T, 1, h, w)
    if grey.shape[-2:] != frames.shape[-2:]:
        grey = F.resize(grey, list(frames.shape[-2:]), antialias=True)
    return Seen(shown, apply_view(grey, view, size, is_flow=False)[:, 0].numpy() / np.float32(255))


def actor_masks(dataset: Dataset, store: ClipStore, clip: Clip, frames: Sequence[int]) -> Array | None:
    """Where the actors are in some frames of a clip, (T, h, w) bool; None where it is not known."""
    if dataset.name == "motionshapes":
        from repro.data.motionshapes import truth  # here, because it needs OpenCV

        known: Array = truth(clip.id).masks[np.asarray(frames)] > 0
        return known
    return silhouettes(dataset, store, clip, frames) if dataset.name == "weizmann" else None


def silhouettes(dataset: Dataset, store: ClipStore, clip: Clip, frames: Sequence[int]) -> Array | None:
    """What differs from the background in some frames of a stored clip of a still camera, (T, H, W) bool.

    The background is the median over the frames of a clip in which the same person crosses the picture, that which is
    most alike, each colour as bright as the clip's own. None where no such clip is stored or alike.
    """
    own = _median(store, clip.id)
    crossing = [c for c in dataset.clips if c.group == clip.group and dataset.classes[c.label] in CROSSING]
    found = []
    for other in crossing:
        if store.has(other.id, flow=False):
            median = _median(store, other.id)
            if median.shape == own.shape:
                gain = np.median(own / np.maximum(median, 1), axis=(1, 2), keepdims=True)  # (3, 1, 1)
                found.append(gain * median)
    distances = [float(np.median(np.abs(own - background).max(axis=0))) for background in found]
    if not distances or min(distances) > SAME_BACKGROUND:
        return None
    background = found[int(np.argmin(distances))]
    with store.open(clip.id) as stored:
        shown: Tensor = stored.rgb(list(frames))
    different: Array = np.abs(shown.numpy() - background).max(axis=1) > DIFFERENT
    return different


@lru_cache(maxsize=64)
def _median(store: ClipStore, clip_id: str) -> Array:
    """The median of a stored clip over time, (3, H, W)."""
    with store.open(clip_id) as stored:
        frames = stored.rgb(range(stored.n_frames)).numpy()
    median: Array = np.median(frames, axis=0)
    return median
