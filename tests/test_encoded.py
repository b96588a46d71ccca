"""Samples that are decoded on the device are those that the loader decodes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import TinyNet

from repro.data.catalog import Clip
from repro.data.clips import EndlessOrder, Sampling, TrainingSamples
from repro.errors import ReproError
from repro.flow import encoded
from repro.flow.encoded import EncodedSamples, decoded
from repro.flow.store import ClipStore
from repro.training import Recipe, loader_of, train

CPU = torch.device("cpu")
SIZES = {"a/1": (12, 40, 52), "a/2": (9, 48, 40), "b/3": (4, 40, 40)}  # frames, height, width; the last one is short
CLIPS = [Clip(name, "", label, "g") for label, name in enumerate(SIZES)]
SAMPLING = Sampling(3, 5, 32)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ClipStore:
    """Clips of noise, of several sizes, no width a multiple of eight but one."""
    rng = np.random.default_rng(0)
    found = ClipStore(tmp_path_factory.mktemp("store"), short_side=40, flow_backend="none: invented")
    for name, (n, h, w) in SIZES.items():
        video = rng.integers(0, 256, (n, h, w, 3), dtype=np.uint8)
        found.write(name, video, rng.normal(0, 5, (n - 1, 2, h, w)).astype(np.float32))
    return found


def batches(samples: TrainingSamples, workers: int, size: int = 4, count: int = 3) -> list[dict[str, torch.Tensor]]:
    order = EndlessOrder(len(samples), size, 3, 0, count)
    return [samples.pixels(loaded, CPU) for loaded in loader_of(samples, order, CPU, workers)]


@pytest.mark.parametrize("streams", [("rgb", "flow"), ("rgb",), ("flow",)])
@pytest.mark.parametrize("changes", [{}, {"scales": ()}, {"sides": (0.5, 1.25)}, {"stride": (1, 2)}])
def test_batches_are_the_same_bit_by_bit(
    store: ClipStore, streams: tuple[str, ...], changes: dict[str, object]
) -> None:
    sampling = replace(SAMPLING, streams=streams, **changes)  # type: ignore[arg-type]
    mirrored = [1, 0, 2]
    for ours, theirs in zip(
        batches(EncodedSamples(store, CLIPS, sampling, 3, mirrored), 0),
        batches(TrainingSamples(store, CLIPS, sampling, 3, mirrored), 0),
        strict=True,
    ):
        assert ours.keys() == theirs.keys() == {*streams, "label"}
        for name in ours:
            assert ours[name].shape == theirs[name].shape
            assert ours[name].dtype == theirs[name].dtype
            assert torch.equal(ours[name], theirs[name]), name


def test_loader_processes_change_nothing(store: ClipStore) -> None:
    samples = EncodedSamples(store, CLIPS, SAMPLING, 3)
    for ours, theirs in zip(batches(samples, 2), batches(samples, 0), strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_what_leaves_the_loader_is_smaller_than_pixels(store: ClipStore) -> None:
    sample = EncodedSamples(store, CLIPS, SAMPLING, 3)[0, 0]
    images = 3 + 3 * 5
    assert len(sample["rgb_lengths"]) + len(sample["flow_lengths"]) == images
    assert len(sample["flow_bytes"]) == int(sample["flow_lengths"].sum())
    with store.open("a/1") as stored:
        blobs = {stored.blob(index) for index in range(stored.n_frames)}
    first = bytes(sample["rgb_bytes"][: int(sample["rgb_lengths"][0])].tolist())
    assert first in blobs


def test_training_is_the_same_bit_by_bit(store: ClipStore) -> None:
    def losses(kind: type[TrainingSamples]) -> list[float]:
        torch.manual_seed(0)
        network = TinyNet(len(CLIPS), flow_frames=SAMPLING.flow_frames)
        return train(network, kind(store, CLIPS, SAMPLING, 1), Recipe(3, 2, 1, 0.01)).losses

    assert losses(EncodedSamples) == losses(TrainingSamples)


def test_a_torchvision_without_nvjpeg_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("decode_jpegs_cuda: torchvision not compiled with nvJPEG support\nmore")

    monkeypatch.setattr(encoded, "decode_jpeg", broken)
    with pytest.raises(ReproError, match="nvJPEG does not decode this .*support.: try without --decode device"):
        decoded([torch.zeros(3, dtype=torch.uint8)], torch.device("cuda"), grey=False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")
def test_nvjpeg_decodes_almost_the_same(store: ClipStore) -> None:
    """Pictures of noise are the worst case: chroma is stored at half the size, and enlarged in another way."""
    for grey, first in ((True, SIZES["a/1"][0]), (False, 0)):
        with store.open("a/1") as stored:
            blobs = [torch.frombuffer(bytearray(stored.blob(first + i)), dtype=torch.uint8) for i in range(3)]
        ours = decoded(blobs, torch.device("cuda"), grey=grey)
        for one, other in zip(ours, decoded(blobs, CPU, grey=grey), strict=True):
            away = (one.cpu().int() - other.int()).abs().float()
            assert away.mean() < (1 if grey else 12)
