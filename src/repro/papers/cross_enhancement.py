"""Cross-enhancement transform two-stream 3D ConvNets (Cao, Xu, Zhang, AIIPCC 2019).

The file follows the paper: the two I3D streams (Sec. 2), a frozen teacher and its student with two bridges and three
losses (Sec. 3.1, 3.2, Eq. 1, 2), the pair that infers (Sec. 3.1, end). Each section of the paper has one direction of
teaching, so every function here has both. B clips, T frames, n classes, C H W; (B, C, T, H, W) inside I3D.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.errors import ReproError, nearest
from repro.models.count import Shape, multiply_adds, parameters
from repro.models.i3d import I3D, published_input
from repro.papers.cross_enhancement_layers import STREAMS, Adapter, Fused3D, Fused3DConfig, FusionLayer

CHANNELS = {"rgb": 3, "flow": 2}  # of a frame; u and v of one field
# Sec. 4.2 names front, medium and rear and no layers: the last block of each stage (ledger cross_enhancement-L3).
POSITIONS = {"front": "Mixed_3c", "middle": "Mixed_4f", "rear": "Mixed_5c"}
# Letter -> (place in the teacher, place in the student). Sec. 4.2: nine connections of three places with three. Which
# letter is which connection the text does not say: here the teacher's place changes last (ledger cross_enhancement-L2).
BRIDGES = dict(zip("abcdefghi", itertools.product(POSITIONS, POSITIONS), strict=True))
OUTPUTS = ("pooled", "logits")  # where the second bridge ends (ledger cross_enhancement-L7)
SQUARES = ("mean", "sum")  # of the elements of a clip (ledger cross_enhancement-L6)
FUSIONS = ("average", "layer", "all")


def _known(what: str, value: str, options: Mapping[str, object] | tuple[str, ...]) -> None:
    if value not in options:
        raise ReproError(f"{what} '{value}'{nearest(value, options)}: use one of {', '.join(options)}")


# ---------------------------------------------------------------- Sec. 2: one I3D stream


@dataclass(frozen=True)
class Config:
    """One stream of Two-Stream I3D, trained by itself."""

    stream: str  # "rgb" or "flow"
    width: float = 1.0  # scales the channels of I3D
    dropout: float = 0.0  # before the classifier; the paper does not say (ledger cross_enhancement-L20)

    def __post_init__(self) -> None:
        _known("stream", self.stream, STREAMS)


class Stream(nn.Module):
    """I3D on the frames of a clip, or on its flow fields."""

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.i3d = I3D(num_classes, CHANNELS[config.stream], width=config.width, dropout=config.dropout)

    def clip(self, rgb: Tensor | None, flow: Tensor | None) -> Tensor:
        """Return the stream's own input as I3D reads it: (B, T, C, H, W) to (B, C, T, H, W) in [-1, 1]."""
        name = self.config.stream
        x = rgb if name == "rgb" else flow
        if x is None:
            raise ReproError(f"the {name} stream got no input: pass {name}")
        if x.ndim != 5 or x.shape[2] != CHANNELS[name]:
            raise ReproError(f"{name} of shape {tuple(x.shape)}: give (clips, frames, {CHANNELS[name]}, height, width)")
        return published_input(x.transpose(1, 2))

    def forward(self, rgb: Tensor | None = None, flow: Tensor | None = None) -> dict[str, Tensor]:
        """Return {stream: logits (B, n)} for rgb (B, T, 3, H, W) or flow (B, T, 2, H, W), whichever it needs."""
        return {self.config.stream: self.i3d(self.clip(rgb, flow))}

    def traced(self, clip: Tensor, place: str, output: str) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (B, n), features at `place` (B, c, t, h, w) and output features (B, c') of a `clip`.

        `place` is one of `POSITIONS`, `output` one of `OUTPUTS`.
        """
        maps = self.i3d.features(clip)
        logits = self.i3d.head(maps["Mixed_5c"])
        return logits, maps[POSITIONS[place]], logits if output == "logits" else self.i3d.pooled(maps["Mixed_5c"])


# ---------------------------------------------------------------- Sec. 3.1 and 3.2: a stream teaches the other


@dataclass(frozen=True)
class Teaching:
    """How a student is taught: "rgb" by flow is Sec. 3.1, "flow" by RGB is Sec. 3.2 (ledger cross_enhancement-L1)."""

    student: str
    bridge: str = "e"  # the first bridge, a key of `BRIDGES`
    # The paper never gives the weights (ledger cross_enhancement-L5).
    alpha: float = 1.0  # of the first bridge; 0 leaves output distillation, which is MARS
    beta: float = 1.0  # of the second bridge; with alpha = 0 too, a plain stream is left
    gamma: float = 1.0  # of the cross-entropy
    output: str = "pooled"
    squares: str = "mean"  # makes the weights comparable between bridges of different sizes
    width: float = 1.0
    dropout: float = 0.0  # of the student: a teacher in evaluation mode has none

    def __post_init__(self) -> None:
        _known("student", self.student, STREAMS)
        _known("bridge", self.bridge, BRIDGES)
        _known("output", self.output, OUTPUTS)
        _known("squares", self.squares, SQUARES)
        for name in ("alpha", "beta", "gamma"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ReproError(f"{name}={getattr(self, name)}: give a number of at least 0")
        if not self.alpha + self.beta + self.gamma:
            raise ReproError("alpha, beta and gamma are all 0: nothing would be learned; set one of them")

    @property
    def teacher(self) -> str:
        """The stream that teaches."""
        return "flow" if self.student == "rgb" else "rgb"

    def stream(self, name: str) -> Config:
        """The configuration of the student or of the teacher as a stream by itself."""
        return Config(name, self.width, self.dropout)


def squared_distance(student: Tensor, teacher: Tensor, squares: str = "mean") -> Tensor:
    """Return || Feature_student - Feature_teacher ||^2 of Eq. 1 and 2, the mean over clips; both are (B, ...).

    Of a clip's elements it is the mean, as the text says, or the sum, as the equations print.
    """
    if student.shape != teacher.shape:
        raise ReproError(f"features of {tuple(student.shape)} and {tuple(teacher.shape)}: an adapter must join them")
    distance = (student.float() - teacher.float()).square().flatten(1)  # (B, elements)
    return (distance.mean(1) if squares == "mean" else distance.sum(1)).mean()


def teaching_loss(teaching: Teaching, outputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
    """Return the loss of Eq. 1 (student "rgb", L_UH1 to L_UH3) or Eq. 2 (student "flow", L_K1 to L_K3).

    `outputs` are those of `Taught` in training, `labels` (B,) class numbers. A term with weight 0 is left out.
    """
    terms = []  # of Eq. 1, Eq. 2
    if teaching.alpha:
        ends = outputs["student inner"], outputs["teacher inner"]
        terms.append(teaching.alpha * squared_distance(*ends, teaching.squares))
    if teaching.beta:
        ends = outputs["student output"], outputs["teacher output"]
        terms.append(teaching.beta * squared_distance(*ends, teaching.squares))
    if teaching.gamma:
        terms.append(teaching.gamma * F.cross_entropy(outputs[teaching.student].float(), labels))
    return torch.stack(terms).sum()


class Taught(nn.Module):
    """A student and its frozen teacher, in training; the student alone, afterwards (Fig. 1, Fig. 2)."""

    def __init__(self, config: Teaching, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.student = Stream(config.stream(config.student), num_classes)
        with torch.random.fork_rng(devices=[]):  # a student begins, and drops out, as it would without a teacher
            self.teacher = Stream(config.stream(config.teacher), num_classes).requires_grad_(False)
            there, here = (POSITIONS[place] for place in BRIDGES[config.bridge])
            channels = self.student.i3d.endpoint_channels
            # The same place in both streams has the same shape: nothing to adapt.
            is_needed = bool(config.alpha) and there != here
            self.adapter = Adapter(channels[here], channels[there]) if is_needed else None
        self.train()

    def train(self, mode: bool = True) -> Taught:
        """Switch the mode of the student; the teacher stays in evaluation mode (ledger cross_enhancement-L19)."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, rgb: Tensor | None = None, flow: Tensor | None = None) -> dict[str, Tensor]:
        """Return {student: logits (B, n)} and, in training, what `bridged` returns, for clips as in `Stream`.

        Teaching needs both inputs, testing that of the student.
        """
        if self.training and (self.config.alpha or self.config.beta):
            return self.bridged(rgb, flow)
        return self.student(rgb, flow)  # type: ignore[no-any-return]

    def bridged(self, rgb: Tensor | None, flow: Tensor | None) -> dict[str, Tensor]:
        """Return the student's logits and both ends of each bridge that has a weight.

        "student inner" and "teacher inner" are (B, c, t, h, w) in the teacher's shape, "student output" and
        "teacher output" (B, c').
        """
        there, here = BRIDGES[self.config.bridge]
        with torch.no_grad():
            _, inner_t, output_t = self.teacher.traced(self.teacher.clip(rgb, flow), there, self.config.output)
        logits, inner_s, output_s = self.student.traced(self.student.clip(rgb, flow), here, self.config.output)
        out = {self.config.student: logits}
        if self.config.alpha:
            adapted = inner_s if self.adapter is None else self.adapter(inner_s, inner_t)
            out |= {"student inner": adapted, "teacher inner": inner_t}
        if self.config.beta:
            out |= {"student output": output_s, "teacher output": output_t}
        return out

    def inference(self) -> Stream:
        """Sec. 3.2, test phase: without the bridges the student is a plain stream."""
        return self.student


def start_from(model: Taught, teacher: Mapping[str, Tensor], student: Mapping[str, Tensor] | None = None) -> None:
    """Give a teacher the weights of a trained stream (Sec. 3.1: it is trained first), and the student its own, if any.

    Both are state dicts of a `Stream`, or of a `Taught` network, whose student counts. ReproError when one is of
    another stream, width or class count.
    """
    _load(model.teacher, teacher)
    if student is not None:
        _load(model.student, student)


def _load(stream: Stream, state: Mapping[str, Tensor]) -> None:
    mark = "student."
    found = {k.removeprefix(mark): v for k, v in state.items() if k.startswith(mark)} or dict(state)
    own = stream.state_dict()
    wrong = [k for k in sorted(own.keys() | found.keys()) if k not in own or k not in found]
    wrong += [k for k in own if k in found and own[k].shape != found[k].shape]
    if wrong:
        what = f"{stream.config.stream} stream of width {stream.config.width:g}"
        raise ReproError(f"these weights are not of the {what} (first difference: {wrong[0]}): give those of one")
    stream.load_state_dict(found)


# ---------------------------------------------------------------- Sec. 3.1, end: both streams infer


@dataclass(frozen=True)
class Pair:
    """Both streams. `fusion` "average" is Two-Stream I3D: the mean of the logits, each stream with its own loss.

    "layer" trains a fully connected layer on two frozen streams, "all" the streams too; the paper does not say which
    (ledger cross_enhancement-L8). The layer on untaught streams is the control (ledger cross_enhancement-L9).
    """

    fusion: str = "layer"
    width: float = 1.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _known("fusion", self.fusion, FUSIONS)


class TwoStream(nn.Module):
    """The network that infers: RGB and flow, and what joins them."""

    def __init__(self, config: Pair, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.streams = nn.ModuleDict(
            {name: Stream(Config(name, config.width, config.dropout), num_classes) for name in STREAMS}
        )
        self.fusion = None if config.fusion == "average" else FusionLayer(num_classes)
        if config.fusion == "layer":
            self.streams.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> TwoStream:
        """Switch the mode; frozen streams stay in evaluation mode."""
        super().train(mode)
        if self.config.fusion == "layer":
            self.streams.eval()
        return self

    def forward(self, rgb: Tensor | None = None, flow: Tensor | None = None) -> dict[str, Tensor]:
        """Return logits (B, n) of "rgb", "flow" and "fusion"; in training those that have a loss."""
        single = {name: stream(rgb, flow)[name] for name, stream in self.streams.items()}
        if self.fusion is None:
            return single if self.training else {**single, "fusion": average(single["rgb"], single["flow"])}
        fused = {"fusion": self.fusion(single["rgb"], single["flow"])}
        return fused if self.training else {**single, **fused}


def average(rgb: Tensor, flow: Tensor) -> Tensor:
    """Late fusion of Two-Stream I3D: the mean of both streams' logits (B, n)."""
    return (rgb + flow) / 2


def join(model: TwoStream, rgb: Mapping[str, Tensor], flow: Mapping[str, Tensor]) -> None:
    """Put two trained streams into the pair, taught or plain, as in `start_from`."""
    for name, state in (("rgb", rgb), ("flow", flow)):
        stream = model.streams[name]
        assert isinstance(stream, Stream)
        _load(stream, state)


# ---------------------------------------------------------------- what the networks cost


class Count(NamedTuple):
    """What one network has; `multiply_adds` are those of one clip. `entry`: the ledger entry that it answers."""

    network: str
    parameters: int
    multiply_adds: int
    entry: str


class Bridge(NamedTuple):
    """A first bridge: its ends as (C, T, H, W), the elements compared per clip, what its adapter has and does."""

    letter: str
    teacher: str
    student: str
    teacher_shape: Shape
    student_shape: Shape
    elements: int
    parameters: int
    multiply_adds: int


def counts(num_classes: int = 400, frames: int = 64, size: int = 224, width: float = 1.0) -> list[Count]:
    """Count streams, pairs and the baseline on clips of `frames` frames (five snippets for 3D-Fused)."""
    rows = []
    with torch.device("meta"):
        rgb, flow = (torch.zeros(1, frames, c, size, size) for c in CHANNELS.values())
        for name in STREAMS:
            rows.append(_count(f"{name} stream", Stream(Config(name, width), num_classes), rgb, flow, "L20"))
        for fusion, what in (("average", "Two-Stream I3D"), ("layer", "with a fusion layer")):
            rows.append(_count(what, TwoStream(Pair(fusion, width), num_classes), rgb, flow, "L9"))
        rgb, flow = torch.zeros(1, 5, 3, size, size), torch.zeros(1, 5, 20, size, size)
        for streams in (("rgb",), ("flow",), STREAMS):
            model = Fused3D(Fused3DConfig(streams, width), num_classes)
            rows.append(_count(f"3D-Fused, {' and '.join(streams)}", model, rgb, flow, "L13"))
    return rows


def _count(name: str, model: nn.Module, rgb: Tensor, flow: Tensor, entry: str) -> Count:
    return Count(name, parameters(model), multiply_adds(model, rgb, flow), f"cross_enhancement-{entry}")


def bridges(frames: int = 64, size: int = 224, width: float = 1.0) -> list[Bridge]:
    """Describe the nine bridges 'a' to 'i' on clips of `frames` frames (ledger cross_enhancement-L3, L4, L6)."""
    rows = []
    with torch.device("meta"), torch.no_grad():
        maps = I3D(1, width=width).features(torch.zeros(1, 3, frames, size, size))
        for letter, (there, here) in BRIDGES.items():
            teacher, student = maps[POSITIONS[there]], maps[POSITIONS[here]]
            adapter = Adapter(student.shape[1], teacher.shape[1]) if there != here else None
            cost = (parameters(adapter), multiply_adds(adapter, student, teacher)) if adapter else (0, 0)
            shapes = tuple(teacher.shape[1:]), tuple(student.shape[1:])
            rows.append(Bridge(letter, there, here, *shapes, teacher.numel(), *cost))
    return rows
