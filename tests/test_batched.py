"""TV-L1 of whole batches: its parts against OpenCV's, the whole against the fused backend, Triton's kernels against
plain tensors."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from test_fused import CHAOTIC, EXACT_WARPS, distances, frame_pairs, noise

from repro.cli.bench_flow import invented_pairs
from repro.errors import ReproError
from repro.flow import batched, fused
from repro.flow.batched import Plain, tvl1_batched
from repro.flow.store import quantise
from repro.flow.tvl1 import DEFAULTS, tvl1


def pairs(count: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    found = list(invented_pairs(count, height, width))
    return np.stack([pair.first for pair in found]), np.stack([pair.second for pair in found])


# ---------------------------------------------------------------- parts


@pytest.mark.parametrize(("shape", "step"), [((64, 80), 0.8), ((37, 23), 0.8), ((16, 200), 0.8), ((33, 71), 0.5)])
def test_pyramid(shape: tuple[int, int], step: float) -> None:
    images = noise(2, *shape) * 50 + 128
    found = batched.pyramid(torch.from_numpy(images), 5, step)
    for i in range(2):
        for level, known in zip(found, fused.pyramid(images[i], 5, step), strict=True):
            assert np.abs(level[i].numpy() - known).max() < 1e-4


def test_flow_is_enlarged_by_the_ratio_of_sizes() -> None:
    flow = noise(3, 2, 26, 33)
    found = batched.enlarged(torch.from_numpy(flow), 33, 41).numpy()
    for n in range(3):
        for channel in range(2):
            known = cv2.resize(flow[n, channel], (41, 33), interpolation=cv2.INTER_LINEAR)
            assert np.abs(found[n, channel] - known).max() < 1e-5


@pytest.mark.skipif(not EXACT_WARPS, reason="OpenCV 4 rounds coordinates")
def test_warp() -> None:
    images = noise(2, 3, 33, 41) * 40 + 128
    u, v = noise(2, 33, 41, seed=1) * 9, noise(2, 33, 41, seed=2) * 9  # many beyond the border
    found = batched.warp(*(torch.from_numpy(x) for x in (images, u, v))).numpy()
    grid_y, grid_x = np.mgrid[:33, :41].astype(np.float32)
    for n in range(2):
        for channel in range(3):
            known = fused.warp(images[n, channel], grid_x + u[n], grid_y + v[n])
            assert np.abs(found[n, channel] - known).max() < 1e-3
    still = torch.zeros(2, 33, 41)
    assert torch.equal(batched.warp(torch.from_numpy(images), still, still), torch.from_numpy(images))


def test_centred_gradient() -> None:
    images = noise(2, 17, 23)
    found = batched.centred_gradient(torch.from_numpy(images))
    for n in range(2):
        for mine, known in zip(found, fused.centred_gradient(images[n]), strict=True):
            assert np.array_equal(mine[n].numpy(), known)


def test_median_is_opencvs() -> None:
    source, target = torch.from_numpy(noise(2, 6, 17, 23)), torch.zeros(2, 6, 17, 23)
    before, after = torch.tensor([[2.0], [1.0]]), torch.zeros(2, 1)
    steps = torch.zeros(2, dtype=torch.int32)
    Plain().smooth(source, target, before, after, steps, 4, 1.0)
    for channel in range(2):
        assert np.array_equal(target[0, channel].numpy(), cv2.medianBlur(source[0, channel].numpy(), 5))
    assert torch.equal(target[0, 2:], source[0, 2:])
    assert not target[1].any() and after.tolist() == [[np.inf], [0.0]] and steps.tolist() == [5, 0], "one is frozen"


# ---------------------------------------------------------------- the whole


CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"))


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_short_runs(device: str) -> None:
    first, second = pairs(12, 60, 80)
    one, other = torch.from_numpy(first).to(device), torch.from_numpy(second).to(device)
    for scales, of_all, of_one in ((1, 1e-4, 0.01), (5, 1e-3, np.inf)):
        short = {**DEFAULTS, "scales": scales, "warps": 1}
        known = torch.from_numpy(fused.tvl1_fused(first, second, **short))
        distance = distances(tvl1_batched(one, other, **short).cpu(), known)
        assert distance.mean() < of_all and distance.max() < of_one


def test_natural_pairs() -> None:
    """The tier of full defaults; `fused` has been compared with OpenCV likewise."""
    places = [(clip, frame + shift) for clip, frame in CHAOTIC for shift in (1, 3)]
    first, second = frame_pairs(places)
    flow, known = tvl1(first, second, backend="torch"), tvl1(first, second)
    distance = distances(flow, known)
    levels = np.abs(quantise(flow, 20).astype(int) - quantise(known.numpy(), 20))
    assert distance.mean() <= 0.03 and (distance <= 0.25).mean() >= 0.985 and (levels <= 1).mean() >= 0.99


def test_identical_frames_have_no_flow() -> None:
    first, _ = pairs(3, 40, 56)
    assert not tvl1(first, first, backend="torch").any()


def test_a_pair_does_not_depend_on_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """They stop after different numbers of steps, and large batches are divided."""
    first, second = pairs(5, 33, 47)
    second[2] = first[2]
    flow = tvl1(first, second, backend="torch")
    for i in range(5):
        alone = tvl1(first[i : i + 1], second[i : i + 1], backend="torch")
        assert torch.allclose(alone[0], flow[i], atol=1e-4), "sums of another vector length"
    monkeypatch.setattr(batched, "PIXELS", 2 * 33 * 47)
    assert torch.allclose(tvl1(first, second, backend="torch"), flow, atol=1e-4)
    assert tvl1(first[:0], second[:0], backend="torch").shape == (0, 2, 33, 47)


class Counting(Plain):
    """Counts the calls that wrote something, pair by pair."""

    def __init__(self) -> None:
        self.calls = 0
        self.written: list[list[int]] = []

    def step(self, *args: Any) -> None:
        frozen = args[1].clone(), args[3].sum(1) <= args[7]
        super().step(*args)
        assert torch.equal(args[1][frozen[1]], frozen[0][frozen[1]]), "a frozen pair was written"
        self.calls += 1


def test_frozen_pairs_stay_and_nobody_waits_for_more_than_a_round() -> None:
    first, second = pairs(3, 24, 32)
    second[1] = first[1]
    by, alone = Counting(), Counting()
    options = {**DEFAULTS, "scales": 1, "warps": 2}
    one, other = torch.from_numpy(first), torch.from_numpy(second)
    tvl1_batched(one, other, **options, by=by)
    tvl1_batched(one[1:2], other[1:2], **options, by=alone)
    assert alone.calls == 2 * 30 < by.calls <= 2 * 300


def test_quantising_a_tensor_gives_the_same_bytes() -> None:
    flow = np.concatenate([noise(2, 2, 9, 9).ravel() * 30, np.arange(-40, 41) * (20 / 255)]).astype(np.float32)
    assert np.array_equal(quantise(torch.from_numpy(flow), 20), quantise(flow, 20))


def test_other_medians_are_refused() -> None:
    first, second = pairs(1, 16, 16)
    with pytest.raises(ReproError, match="medians of 5 pixels or none"):
        tvl1(first, second, backend="torch", median=3)
    none = {**DEFAULTS, "median": 1, "warps": 1}
    found = tvl1(first, second, backend="torch", median=1, warps=1)
    assert np.abs(found.numpy() - fused.tvl1_fused(first, second, **none)).max() < 0.01


# ---------------------------------------------------------------- Triton

KERNELS = """
import torch
from repro.cli.bench_flow import invented_pairs
from repro.flow.batched import Plain, tvl1_batched
from repro.flow.kernels import Kernels
from repro.flow.tvl1 import DEFAULTS
from test_batched import pairs

plain, kernels = Plain(), Kernels(4, 16)  # an image has several blocks, cut off at its right and lower edge
rng = torch.Generator().manual_seed(0)
shape = 2, 6, 10, 23
source = torch.randn(shape, generator=rng)
for frozen in (False, True):
    found = []
    for by in (plain, kernels):
        target, steps = torch.zeros(shape), torch.zeros(2, dtype=torch.int32)
        changes = torch.ones(2, 2, by.parts(10, 23))
        changes[0, 1] = 0 if frozen else 1
        by.smooth(source, target, changes[0], changes[1], steps, 6, 0.5)
        found.append((target, changes[1].amax(1), steps))
    for x, y in zip(*found, strict=True):
        assert torch.equal(x, y), "medians"
assert found[0][2].tolist() == [7, 0]

first, second = pairs(2, 20, 25)
images = [torch.from_numpy(x) for x in (first, second)]
options = {**DEFAULTS, "scales": 2, "warps": 1, "outer": 2, "inner": 2, "epsilon": 0.05}
known, found = (tvl1_batched(*images, **options, by=by) for by in (plain, kernels))
assert known.abs().max() > 0.1, "a test of nothing"
print(float((known - found).abs().max()))
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton comes with PyTorch for CUDA on Linux")
def test_kernels_in_the_interpreter(tmp_path: Path) -> None:
    """Medians to the bit, whole runs to rounding; in a process of its own, since Triton decides when it is imported."""
    script = tmp_path / "run.py"
    script.write_text(KERNELS)
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    env = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = subprocess.run([sys.executable, str(script)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert float(done.stdout) < 1e-4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_kernels_on_a_gpu() -> None:
    """The third tier once more, compiled: arrays go to the GPU by themselves."""
    test_natural_pairs()
    test_identical_frames_have_no_flow()
