"""Runs of the cross-enhancement chapter that follow from trained ones: how far a student is from its teacher, and test
scores on the way through a training.

Each is filed as a result of its own, because the network itself is not kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor, nn

from repro.data.catalog import Clip
from repro.evaluation import evaluate, protocol
from repro.experiments import Experiment, Lab
from repro.papers.cross_enhancement import POSITIONS, Stream, Taught
from repro.papers.cross_enhancement_experiments import VARIANTS, experiments
from repro.papers.cross_enhancement_layers import STREAMS
from repro.results import Result

Parts = tuple[Clip, ...]
UNTAUGHT, TEACHER = "rgb", "flow"  # a stream that nobody taught, and the one that would have
# Trainings whose distance to the teacher is measured: what was untaught, both directions, the weights of both bridges.
COMPARED = (
    UNTAUGHT,
    "rgb-taught",
    *(f"rgb-taught@{x}" for x in ("output-only", "inner-only", "weights-0.1", "weights-10", "inner-10", "output-10")),
    "flow-taught",
)
FOLLOWED = (UNTAUGHT, "rgb-taught")  # trainings that are followed from their beginning (claim cross_enhancement-10)
TENTHS = 10
# No adapter is needed, and so none is trained, where both ends are at the same place; the output is pooled.
PLACES = (*POSITIONS, "output")


# ---------------------------------------------------------------- Sec. 3.1: the distance that teaching makes smaller


class Compared(nn.Module):
    """Two trained streams on the same clips, place by place."""

    def __init__(self, student: Stream, teacher: Stream) -> None:
        super().__init__()
        self.student, self.teacher = student, teacher

    def forward(self, rgb: Tensor, flow: Tensor) -> dict[str, Tensor]:
        """For each of `PLACES`, of every clip (B, 1): `distance_<place>`, the mean over the elements of the squared
        difference of Eq. 1 and 2, and `teacher_<place>`, that of the teacher's squared features.

        `rgb` is (B, T, 3, H, W), `flow` (B, T, 2, H, W).
        """
        student, teacher = (_features(stream, rgb, flow) for stream in (self.student, self.teacher))
        distances = {f"distance_{place}": _mean_square(student[place] - teacher[place]) for place in PLACES}
        return distances | {f"teacher_{place}": _mean_square(teacher[place]) for place in PLACES}


def _features(stream: Stream, rgb: Tensor, flow: Tensor) -> dict[str, Tensor]:
    """Features (B, ...) of a stream at `PLACES`."""
    maps = stream.i3d.features(stream.clip(rgb, flow))
    inner = {place: maps[layer].float() for place, layer in POSITIONS.items()}
    return inner | {"output": stream.i3d.pooled(maps["Mixed_5c"]).float()}


def _mean_square(x: Tensor) -> Tensor:
    return x.square().flatten(1).mean(1, keepdim=True)  # (B, 1)


def distance(lab: Lab, experiment: Experiment, seed: int) -> Result:
    """How far the student's features are from its teacher's on the test clips, both in evaluation mode (claim 9).

    Arrays (clips,): `distance_<place>` and `teacher_<place>` for each of `PLACES`, see `Compared`; float32, over the
    frames of the protocol and the centre crop. And `frames`, how many each clip has (ledger cross_enhancement-L17).
    The teacher of a stream that nobody taught is the flow stream of the same seed.
    """
    views = replace(protocol(experiment.protocol), views="centre")
    sampling = replace(experiment.sampling, streams=STREAMS)
    settings: dict[str, object] = {"places": list(PLACES), "frames": views.snippets}
    teacher = None
    if experiment.name == UNTAUGHT:
        teacher = _plain_teacher(lab, experiment)
        settings["teacher"] = lab.key(teacher, seed)

    def compute(model: nn.Module, training: Parts, testing: Parts) -> dict[str, np.ndarray]:
        both = _pair(model, lab.network(teacher, seed) if teacher else None)
        found = evaluate(
            both, lab.store, testing, sampling, views, device=str(lab.device), workers=lab.workers
        )  # (clips, 1) each
        return {name: values[:, 0] for name, values in found.items()} | {"frames": _frames(lab, testing)}

    return lab.derived(experiment, seed, "distance", settings, [], compute)


def _plain_teacher(lab: Lab, experiment: Experiment) -> Experiment:
    """The flow stream of the same scale, on the same clips."""
    found = experiments(experiment.preset, lab.dataset.name, experiment.weights)[TEACHER]
    return replace(found, per_class=experiment.per_class, fold=experiment.fold)


def _pair(model: nn.Module, teacher: nn.Module | None) -> Compared:
    if isinstance(model, Taught):
        return Compared(model.inference(), model.teacher)
    assert isinstance(model, Stream) and isinstance(teacher, Stream)
    return Compared(model, teacher)


def _frames(lab: Lab, clips: Sequence[Clip]) -> np.ndarray:
    found = []
    for clip in clips:
        with lab.store.open(clip.id) as stored:
            found.append(stored.n_frames)
    return np.array(found, np.int32)


# ---------------------------------------------------------------- Sec. 3.1: does a taught student learn faster?


def curve(lab: Lab, experiment: Experiment, seed: int) -> Result:
    """What test clips are taken for after each tenth of a training, which is repeated from its beginning (claim 10).

    Array `curve_<output>` (10, clips), int16, classes; the output is the stream's.
    """
    output = VARIANTS[experiment.name].stream

    def compute(model: nn.Module, training: Parts, testing: Parts) -> dict[str, np.ndarray]:
        found = [lab.evaluate(part, experiment, testing)[output] for part in lab.along(experiment, seed, TENTHS)]
        return {f"curve_{output}": np.stack(found).argmax(2).astype(np.int16)}

    return lab.derived(experiment, seed, "curve", {"parts": TENTHS, "kept": "classes"}, [], compute)


# ---------------------------------------------------------------- all of them


def derive(lab: Lab, experiment: Experiment, seed: int) -> list[Result]:
    """The runs that start from a trained network and belong to this chapter."""
    done = [distance(lab, experiment, seed)] if experiment.name in COMPARED else []
    return [*done, curve(lab, experiment, seed)] if experiment.name in FOLLOWED else done
