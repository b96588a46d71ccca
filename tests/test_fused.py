"""The fused TV-L1 against slow, obvious versions of its parts, and as a whole against OpenCV's class.

The solver is chaotic near occlusions, where OpenCV's flow differs from its own after a change of 2e-5 grey levels. So
parts and short runs must agree closely, whole runs on average, and no test asks for equality or for the largest error.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import cv2
import numba
import numpy as np
import pytest
import torch

from repro.cli.bench_flow import clip_pairs, invented_pairs
from repro.data import motionshapes
from repro.errors import ReproError
from repro.flow import fused
from repro.flow.store import quantise
from repro.flow.tvl1 import backend_name, tvl1

EXACT_WARPS = int(cv2.__version__.split(".")[0]) >= 5  # OpenCV 4 rounds coordinates to 1/32 px
# (clip, frame) of shaken clips where OpenCV differs by more than .03 px from its own flow of disturbed frames
CHAOTIC = [
    ("LookRed/v_LookRed_g11_c03", 12), ("MoveShake/v_MoveShake_g21_c03", 25), ("MoveCircle/v_MoveCircle_g11_c03", 12),
    ("ShakeThenNod/v_ShakeThenNod_g21_c03", 25), ("NodThenShake/v_NodThenShake_g01_c03", 25),
]  # fmt: skip


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def frame_pairs(places: list[tuple[str, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Grey frames t and t + 1 of motionshapes clips, each (N, 64, 64) uint8."""
    pairs = [motionshapes.frames(clip)[t : t + 2] for clip, t in places]
    grey = np.array([[cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in pair] for pair in pairs])
    return grey[:, 0], grey[:, 1]


def distances(first: torch.Tensor, second: torch.Tensor) -> np.ndarray:
    """End-point differences in px, (N, H, W)."""
    return torch.linalg.vector_norm(first - second, dim=1).numpy()


def assert_natural_parity(first: np.ndarray, second: np.ndarray) -> None:
    flow, reference = tvl1(first, second), tvl1(first, second, backend="opencv")
    distance = distances(flow, reference)
    levels = np.abs(quantise(flow.numpy(), 20).astype(int) - quantise(reference.numpy(), 20))
    assert distance.mean() <= 0.03
    assert (distance <= 0.25).mean() >= 0.985
    assert (levels <= 1).mean() >= 0.99


# ---------------------------------------------------------------- parts


def slow_resize(image: np.ndarray, step: float) -> np.ndarray:
    """Bilinear without blur; sizes are rounded half to even, coordinates go by `step` and not by the sizes' ratio."""
    height, width = (round(side * step) for side in image.shape)
    y, x = ((np.arange(n) + 0.5) / step - 0.5 for n in (height, width))
    rows = np.array([np.interp(x, np.arange(image.shape[1]), row) for row in image])  # (H, width)
    return np.array([np.interp(y, np.arange(image.shape[0]), column) for column in rows.T]).T


@pytest.mark.parametrize(
    ("shape", "step", "sizes"),
    [
        ((64, 80), 0.8, [(64, 80), (51, 64), (41, 51), (33, 41), (26, 33)]),
        ((37, 23), 0.8, [(37, 23), (30, 18)]),
        ((16, 200), 0.8, [(16, 200)]),
        ((20, 20), 0.8, [(20, 20), (16, 16)]),
        ((33, 71), 0.5, [(33, 71), (16, 36)]),  # 16.5 down, 35.5 up: to the even one
    ],
)
def test_pyramid(shape: tuple[int, int], step: float, sizes: list[tuple[int, int]]) -> None:
    levels = fused.pyramid(noise(*shape) * 50 + 128, 5, step)
    assert [level.shape for level in levels] == sizes
    for level, smaller in pairwise(levels):
        assert np.abs(slow_resize(level, step) - smaller).max() < 1e-4 * np.abs(level).max()
    assert len(fused.pyramid(levels[0], 1, step)) == 1


def slow_warp(image: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Cubic convolution (A = -0.75) over 4x4 neighbours, those outside being zero."""

    def weight(distance: np.ndarray) -> np.ndarray:
        d, a = np.abs(distance), -0.75
        near, far = ((a + 2) * d - (a + 3)) * d * d + 1, ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        return np.where(d <= 1, near, np.where(d < 2, far, 0))

    x, y = x.astype(float), y.astype(float)
    if not EXACT_WARPS:
        x, y = np.round(x * 32) / 32, np.round(y * 32) / 32
    total = np.zeros(x.shape)
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            total += image[row, column] * weight(y - row) * weight(x - column)
    return total


def test_warp() -> None:
    image = noise(18, 21) * 40 + 128
    grid_y, grid_x = np.mgrid[:18, :21].astype(np.float32)
    x, y = grid_x + 3 * noise(18, 21, seed=1), grid_y + 3 * noise(18, 21, seed=2)  # many beyond the border
    assert np.abs(fused.warp(image, x, y) - slow_warp(image, x, y)).max() < 1e-3
    assert np.array_equal(fused.warp(image, grid_x, grid_y), image)


def test_three_images_warp_as_one() -> None:
    """Bit by bit: stored flow was computed from images warped one by one."""
    images = noise(3, 61, 83) * 40 + 128
    grid_y, grid_x = np.mgrid[:61, :83].astype(np.float32)
    x, y = grid_x + 9 * noise(61, 83, seed=1), grid_y + 9 * noise(61, 83, seed=2)
    together = fused.warp(np.ascontiguousarray(images.transpose(1, 2, 0)), x, y)
    assert all(np.array_equal(together[..., i], fused.warp(images[i], x, y)) for i in range(3))


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 33), (1, 5)])
def test_linearise(height: int, width: int) -> None:
    """The same bits as numpy's planes."""
    warped, (u, v, before) = noise(height, width, 3) * 30, noise(3, height, width, seed=1)
    warped[: height // 2, :, 1:] = 0  # nothing to see there
    grad_x, grad_y, inverse, rho = np.full((4, height, width), np.nan, np.float32)
    fused.linearise(warped, u, v, before, grad_x, grad_y, inverse, rho)
    gx, gy = warped[..., 1], warped[..., 2]
    assert np.array_equal(grad_x, gx) and np.array_equal(grad_y, gy)
    assert np.array_equal(inverse, np.reciprocal(np.maximum(gx * gx + gy * gy, fused.EPS)))
    assert np.array_equal(rho, warped[..., 0] - gx * u - gy * v - before)


def test_centred_gradient() -> None:
    image = noise(17, 23)
    found_x, found_y = fused.centred_gradient(image)
    for y in range(17):
        for x in range(23):
            assert found_x[y, x] == (image[y, min(x + 1, 22)] - image[y, max(x - 1, 0)]) / 2
            assert found_y[y, x] == (image[min(y + 1, 16), x] - image[max(y - 1, 0), x]) / 2


class Step:
    """What `inner_steps` works on, at random, and the same steps in float64 without fusing."""

    limit, theta, taut = np.float32(0.15 * 0.3), np.float32(0.3), np.float32(0.25 / 0.3)

    def __init__(self, height: int, width: int) -> None:
        self.u, self.v = noise(2, height, width)
        self.p = list(noise(4, height, width, seed=1) * 0.5)  # pu_x, pu_y, pv_x, pv_y
        self.grad_x, self.grad_y = noise(2, height, width, seed=2)
        self.grad_x[:3], self.grad_y[:3] = 0, 0  # nothing to see there
        self.rho = noise(height, width, seed=3) * 0.2  # within the limit and beyond it
        self.square = np.maximum(self.grad_x**2 + self.grad_y**2, fused.EPS)

    def fast(self, steps: int, threshold: float = -1.0) -> tuple[float, list[np.ndarray]]:
        """The change of the last step; u, v and p."""
        state = [plane.copy() for plane in (self.u, self.v, *self.p)]
        change = fused.inner_steps(
            *state, self.grad_x, self.grad_y, 1 / self.square, self.rho, np.zeros(self.u.shape[1], np.float32),
            self.limit, self.theta, self.taut, threshold, steps,
        )  # fmt: skip
        return float(change), state

    def slow(self, steps: int) -> tuple[float, list[np.ndarray]]:
        u, v, *p = (plane.astype(float) for plane in (self.u, self.v, *self.p))
        change = 0.0
        for _ in range(steps):
            rest = self.rho + self.grad_x * u + self.grad_y * v
            fi = np.clip(-rest / self.square, -self.limit, self.limit)
            du = fi * self.grad_x + self.theta * self.divergence(p[0], p[1])
            dv = fi * self.grad_y + self.theta * self.divergence(p[2], p[3])
            u, v, change = u + du, v + dv, float((du**2 + dv**2).sum())
            for i, flow in ((0, u), (2, v)):
                dx, dy = np.diff(flow, axis=1, append=flow[:, -1:]), np.diff(flow, axis=0, append=flow[-1:])
                weight = 1 + self.taut * np.hypot(dx, dy)
                p[i], p[i + 1] = (p[i] + self.taut * dx) / weight, (p[i + 1] + self.taut * dy) / weight
        return change, [u, v, *p]

    @staticmethod
    def divergence(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.diff(x, axis=1, prepend=0) + np.diff(y, axis=0, prepend=0)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 33), (40, 61), (2, 2), (1, 5)])
@pytest.mark.parametrize("steps", [1, 4])
def test_inner_steps(height: int, width: int, steps: int) -> None:
    step = Step(height, width)
    change, state = step.fast(steps)
    slow_change, slow_state = step.slow(steps)
    for plane, slow in zip(state, slow_state, strict=True):
        assert np.abs(plane - slow).max() < 1e-5
    assert change == pytest.approx(slow_change, rel=1e-5)


def test_inner_steps_stop() -> None:
    """At the first change that is as small as the threshold, not only below it."""
    step = Step(20, 24)
    changes = [step.fast(steps)[0] for steps in range(1, 13)]
    least = int(np.argmin(changes)) + 1
    assert least > 1
    at = changes[least - 1]
    change, state = step.fast(20, at)
    assert change == at
    assert all(np.array_equal(a, b) for a, b in zip(state, step.fast(least)[1], strict=True))
    assert not np.array_equal(step.fast(20, np.nextafter(at, 0))[1][0], state[0])


# ---------------------------------------------------------------- whole runs


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 31), (64, 48)])
def test_identical_frames_have_exactly_no_flow(height: int, width: int) -> None:
    noisy = np.random.default_rng(0).integers(0, 256, (1, height, width), np.uint8)
    assert not tvl1(noisy, noisy).any()


def test_constant_images() -> None:
    """Without a gradient there is no motion to see, not even between different shades."""
    dark, bright = np.full((1, 20, 33), 30, np.uint8), np.full((1, 20, 33), 200, np.uint8)
    assert not tvl1(dark, dark).any()
    flow, reference = tvl1(dark, bright), tvl1(dark, bright, backend="opencv")
    assert torch.isfinite(flow).all() and (flow - reference).abs().max() < 0.01


@pytest.mark.parametrize(
    ("height", "width", "settings"),
    [
        (64, 80, {"scales": 1}),
        (16, 16, {}),
        (37, 51, {"scales": 1}),
        (64, 80, {}),
        (49, 35, {}),
        (40, 40, {"scales": 3, "scale_step": 0.99}),  # 40 px three times: still, each level multiplies the flow
        (40, 56, {"scales": 2, "scale_step": 0.5, "median": 3}),
    ],
)
def test_short_runs(height: int, width: int, settings: dict[str, float]) -> None:
    pairs = list(invented_pairs(5, height, width))
    first, second = np.stack([pair.first for pair in pairs]), np.stack([pair.second for pair in pairs])
    one = {"warps": 1, **settings}
    flow, reference = tvl1(first, second, **one), tvl1(first, second, **one, backend="opencv")  # type: ignore[arg-type]
    distance = distances(flow, reference)
    assert distance.mean() < 1e-3 and reference.abs().max() > 0.3
    if settings.get("scales") == 1:
        assert distance.max() < 0.01


@pytest.mark.parametrize("camera", ["0", "1"])
def test_parity_on_clean_clips(camera: str) -> None:
    clips = [record.id for record in motionshapes.records() if record.tags["camera"] == camera]
    assert_natural_parity(*frame_pairs([(clip, 12 + 13 * (i % 2)) for i, clip in enumerate(clips[::40])]))


def test_parity_on_real_clips(real_data: Path) -> None:
    pairs = list(clip_pairs(real_data / "clips", 5, 120, 160))
    assert len({pair.kind for pair in pairs}) == 5
    assert_natural_parity(np.stack([pair.first for pair in pairs]), np.stack([pair.second for pair in pairs]))


def test_chaos_is_no_larger_than_opencvs_own() -> None:
    first, second = frame_pairs(CHAOTIC)
    reference = tvl1(first, second, backend="opencv")
    floor = []
    for seed in range(2):
        disturbance = np.random.default_rng(seed).uniform(-2e-5, 2e-5, (2, *first.shape))
        disturbed = tvl1(first + disturbance[0], second + disturbance[1], backend="opencv")
        floor.append(distances(disturbed, reference).mean())
    assert np.mean(floor) > 0.02  # else these are not the pairs meant
    assert distances(tvl1(first, second), reference).mean() <= 1.5 * np.mean(floor)


@pytest.mark.parametrize(
    ("name", "crop"),
    [
        ("yosemite", (slice(80, None), slice(None))),  # without the sky: clouds do not keep their brightness
        ("middlebury_RubberWhale", (slice(100, 260), slice(200, 400))),
    ],
)
def test_no_further_from_the_truth_than_opencv(real_data: Path, name: str, crop: tuple[slice, slice]) -> None:
    folder = real_data / "flow" / name
    first, second = (cv2.imread(str(folder / f"frame{i}.png"), cv2.IMREAD_GRAYSCALE)[crop][None] for i in (1, 2))
    truth = torch.from_numpy(cv2.readOpticalFlow(str(folder / "flow_gt.flo"))[crop].transpose(2, 0, 1).copy())[None]
    known = (truth.abs() < 1e9).all(1).numpy()
    error, reference = (
        distances(tvl1(first, second, backend=backend), truth)[known].mean() for backend in ("fused", "opencv")
    )
    assert error <= reference + 0.01


# ---------------------------------------------------------------- inputs


def test_a_batch_is_its_pairs() -> None:
    pairs = list(invented_pairs(4, 33, 47))
    first, second = np.stack([pair.first for pair in pairs]), np.stack([pair.second for pair in pairs])
    flow = tvl1(first, second)
    for i in range(4):
        assert torch.equal(tvl1(first[i : i + 1], second[i : i + 1])[0], flow[i])


def test_types_and_memory_layouts() -> None:
    pair = next(invented_pairs(1, 24, 40))
    first, second = pair.first[None], pair.second[None]
    flow = tvl1(first, second)
    kinds = len(fused.inner_steps.signatures)  # type: ignore[attr-defined]
    before = first.copy()
    for change in (
        lambda x: x.astype(np.float32),
        lambda x: x.astype(np.float64),
        lambda x: torch.from_numpy(x),
        lambda x: torch.from_numpy(x).half(),
        lambda x: np.asfortranarray(x),
        lambda x: np.asfortranarray(x.astype(np.float32)),
        lambda x: x[:, :, ::-1].copy()[:, :, ::-1],
        lambda x: np.repeat(x, 2, axis=2)[:, :, ::2],
        lambda x: np.broadcast_to(x.astype(np.float32), (1, *x.shape[1:])),  # read-only
    ):
        assert torch.equal(tvl1(change(first), change(second)), flow)
    assert np.array_equal(first, before)
    assert len(fused.inner_steps.signatures) == kinds  # type: ignore[attr-defined]  # nothing is compiled anew
    assert torch.equal(tvl1(first, second, epsilon=0.0), tvl1(first, second, epsilon=0))


# ---------------------------------------------------------------- numba


def test_numba_is_imported_when_used() -> None:
    code = "import sys, repro.flow.tvl1, repro.flow.extract; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "repro.flow.fused")
    pair = next(invented_pairs(1, 16, 16))
    with pytest.raises(ReproError, match=r"needs numba \(.*\): install it, or .* 'opencv'") as caught:
        tvl1(pair.first[None], pair.second[None])
    assert "\n" not in str(caught.value)
    assert backend_name().startswith("tvl1-fused-1")  # what is stored can still be named
    assert tvl1(pair.first[None], pair.second[None], backend="opencv").any()


def installed_copy(folder: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> ModuleType:
    """`fused` as a module in a folder where nothing can be cached, with `cache` as the place for the user's cache."""
    folder.mkdir()
    (folder / "__pycache__").touch()  # a file: not even root can write below it
    path = folder / "fused_copy.py"
    path.write_bytes(Path(fused.__file__).read_bytes())
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    for name in ("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(cache))
    spec = importlib.util.spec_from_file_location("fused_copy", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "fused_copy", module)
    spec.loader.exec_module(module)
    return module


def test_read_only_installation_caches_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = installed_copy(tmp_path / "installed", monkeypatch, tmp_path / "home")
    assert Path(copy.inner_steps.stats.cache_path).is_dir()


def test_no_place_for_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    copy = installed_copy(tmp_path / "installed", monkeypatch, tmp_path / "file" / "home")
    assert copy.inner_steps.stats.cache_path is None
    pair = next(invented_pairs(1, 20, 20))
    found = copy.tvl1_fused(
        pair.first[None], pair.second[None], tau=0.25, lambda_=0.15, theta=0.3, scales=5, warps=5, epsilon=0.01,
        inner=30, outer=10, scale_step=0.8, median=5,
    )  # fmt: skip
    assert np.array_equal(found, tvl1(pair.first[None], pair.second[None]).numpy())
