"""Estimates: what is to be done, stage by stage, from an index, from a few videos, or for runs."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fakes import RECIPE, SAMPLING, tiny_net
from test_extract import make_dataset, open_store
from torch import Tensor, nn

from repro.costs import RATES, VIEWS, Estimate, Price, duration, run_cost, size, together
from repro.data.index import Facts
from repro.flow import cost
from repro.flow.cost import estimate
from repro.flow.extract import extract
from repro.models.count import multiply_adds, parameters


def test_extraction_from_a_few_videos(tmp_path: Path) -> None:
    dataset, store = make_dataset(tmp_path / "data", 7), open_store(tmp_path / "store")
    (dataset.root / dataset.clips[0].path).write_bytes(b"not a video")
    found = estimate(dataset, store, dataset.clips)
    assert (found.clips, found.frames, found.pairs) == (7, 7 * 4, 7 * 3)
    kept = 20 * 24 * 0.8**2
    assert found.flow_seconds == pytest.approx(7 * 3 * (cost.FLOW_SECONDS[0] + kept * cost.FLOW_SECONDS[1]))
    assert 0 < found.decode_seconds < found.flow_seconds
    assert found.bytes == pytest.approx(7 * kept * (4 * cost.FRAME_BYTES + 3 * cost.FIELD_BYTES), rel=0.01)
    given = estimate(dataset, store, dataset.clips, given_flow=True)
    assert (given.pairs, given.flow_seconds, given.bytes) == (0, 0.0, found.bytes)
    frames_only = estimate(dataset, open_store(tmp_path / "frames", flow_backend=None), dataset.clips)
    assert (frames_only.pairs, frames_only.flow_seconds) == (0, 0.0) and 0 < frames_only.bytes < found.bytes
    extract(dataset, store, dataset.clips[1:])
    assert estimate(dataset, store, dataset.clips[1:]) == (0, 0, 0, 0.0, 0.0, 0)


def test_extraction_from_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exact, and no video is opened."""
    dataset, store = make_dataset(tmp_path / "data", 3), open_store(tmp_path / "store")
    facts = {
        clip.path: Facts(size=1, mtime_ns=1, frames=10 * (i + 1), height=32, width=48, fps=25.0, codec="x", flaws="")
        for i, clip in enumerate(dataset.clips)
    }
    monkeypatch.setattr(cost, "read_index", lambda root: facts)
    monkeypatch.setattr(cost, "probe", None)
    found = estimate(dataset, store, dataset.clips)
    assert (found.clips, found.frames, found.pairs) == (3, 60, 57)
    assert found.flow_seconds == pytest.approx(57 * (cost.FLOW_SECONDS[0] + 16 * 24 * cost.FLOW_SECONDS[1]))


def test_a_run() -> None:
    """Three passes a training step, one a test view, counted on the network itself."""
    model = tiny_net(2)
    recipe = replace(RECIPE, iterations=1000)
    train, test, left = run_cost(model, recipe, SAMPLING, "25x10", 40, "cpu")
    s = SAMPLING

    def clip(snippets: int) -> int:
        rgb = torch.zeros(1, snippets, 3, s.crop, s.crop) if "rgb" in s.streams else None
        flow = torch.zeros(1, snippets, 2 * s.flow_frames, s.crop, s.crop) if "flow" in s.streams else None
        return multiply_adds(model, rgb, flow)

    assert train == pytest.approx(3 * 1000 * recipe.batch * clip(s.snippets) / RATES["cpu"])
    assert test == pytest.approx(40 * 10 * clip(25) / RATES["cpu"])
    assert left > 8 * parameters(model)
    assert run_cost(model, recipe, SAMPLING, "25x10", 40, "cuda")[0] < train


class Student(nn.Module):
    """Halves time with each of two convolutions; a copy of it, which is not learned, is asked in training."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Sequential(*(nn.Conv3d(3, 3, 1, stride=(2, 1, 1)) for _ in range(2)))
        self.teacher = copy.deepcopy(self.own).requires_grad_(False)

    def forward(self, rgb: Tensor, flow: Tensor | None) -> dict[str, Tensor]:
        x = rgb.transpose(1, 2)
        return {"rgb": self.own(x)} | ({"teacher": self.teacher(x)} if self.training else {})


def test_a_network_over_time_that_has_a_teacher() -> None:
    """Clips are counted whole, and a teacher forward only."""
    model, sampling = Student(), replace(SAMPLING, snippets=8, streams=("rgb",), stride=(1, 1))
    train, test, _ = run_cost(model, replace(RECIPE, iterations=10), sampling, "chain16", 40, "cpu")
    clip = (4 + 2) * sampling.crop**2 * 9  # time steps after either convolution; 3 x 3 channels
    assert train == pytest.approx(10 * RECIPE.batch * (1 + 1 + 2) * clip / RATES["cpu"])
    assert test == pytest.approx(40 * 2 * clip * VIEWS["full"] / RATES["cpu"])
    assert model.training and next(model.parameters()).device.type == "cpu"


def test_splits_share_frames_and_flow() -> None:
    one = Estimate(2, 100, 90, 1.0, 2.0, 3.0, 4.0, 5, 6)
    two = Estimate(1, 50, 45, 0.5, 1.0, 1.5, 2.0, 2, 3)
    assert together([two, one]) == Estimate(3, 100, 90, 1.0, 2.0, 4.5, 6.0, 5, 9)
    assert together([]) == Estimate() and one.seconds == 10.0


def test_splits_share_trainings_on_generated_images() -> None:
    images = {"a": Price(1.0, 0.5, 2), "b": Price(0.25, 0.0, 1)}
    one = Estimate(2, 100, 90, 1.0, 2.0, 3.0, 4.0, 5, 6, {"a": images["a"]})
    two = Estimate(2, 100, 90, 1.0, 2.0, 3.0, 4.0, 5, 6, images)
    assert together([one, two]) == together([two, one]) == Estimate(3, 100, 90, 1.0, 2.0, 5.0, 7.5, 5, 10, images)
    assert together([one, one, two, two]).runs == 4, "each once"
    assert together([together([one, two]), two]) == together([one, two, two]), "groups may be put together again"


def test_every_stage_has_a_line() -> None:
    lines = Estimate(11, 12_345, 12_000, 60.0, 5400.0, 7200.0, 30.0, 3_100_000_000, 40_000_000).lines()
    assert [line.split("  ")[0] for line in lines] == ["decoding", "optical flow", "training", "testing", "in all"]
    assert lines[0].split()[1:] == ["12,345", "frames", "60", "s", "3.1", "GB"]
    assert lines[2].split()[1:] == ["11", "runs", "2.0", "h", "40", "MB"]
    assert lines[4].split() == ["in", "all", "3.5", "h", "3.1", "GB"]
    assert (duration(89), duration(90), duration(5400)) == ("89 s", "2 min", "1.5 h")
    assert (size(1e6), size(2.5e9)) == ("1 MB", "2.5 GB")
