"""The training loop: reproducible to the bit, resumable at any moment, and plain about what is wrong."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fakes import RECIPE, SAMPLING, FakeStore, TinyNet, fresh_run, make_clips

from repro.data.clips import TestViews, TrainingSamples
from repro.errors import ReproError
from repro.evaluation import evaluate
from repro.training import (
    Recipe,
    TrainingError,
    load_checkpoint,
    pick_device,
    read_history,
    save_atomically,
    sum_of_losses,
    train,
)


def same_weights(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def uninterrupted(recipe: Recipe = RECIPE) -> tuple[torch.nn.Module, list[float]]:
    model, samples = fresh_run()
    return model, train(model, samples, recipe).losses


# ---------------------------------------------------------------- the schedule


def test_the_published_schedule_of_stilt():
    recipe = Recipe(40_000, 128, 8, 1e-3, milestones=(10_000, 20_000, 30_000))
    rates = {0: 1e-3, 9_999: 1e-3, 10_000: 1e-4, 19_999: 1e-4, 20_000: 1e-5, 30_000: 1e-6, 39_999: 1e-6}
    for iteration, rate in rates.items():
        assert recipe.rate(iteration) == pytest.approx(rate, rel=1e-12)


def test_warmup_and_cosine():
    recipe = Recipe(100, 4, 4, 0.2, schedule="cosine", warmup=10)
    assert [recipe.rate(i) for i in (0, 4, 9)] == pytest.approx([0.02, 0.1, 0.2])
    assert [recipe.rate(i) for i in (10, 55, 100)] == pytest.approx([0.2, 0.1, 0.0])
    rates = [recipe.rate(i) for i in range(10, 100)]
    assert rates == sorted(rates, reverse=True)


def test_the_optimiser_gets_the_rate_of_each_iteration(tmp_path):
    model, samples = fresh_run()
    train(model, samples, RECIPE, run_dir=tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == list(range(1, 13))
    assert [line["lr"] for line in lines] == pytest.approx([0.05] * 6 + [0.005] * 6)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["optimiser"]["param_groups"][0]["lr"] == pytest.approx(0.005)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"micro_batch": 3}, "no multiple"),
        ({"schedule": "steps"}, "unknown schedule"),
        ({"iterations": 0}, "at least"),
        ({"balanced": (2, 2)}, "2 classes of 2 clips need batch and micro_batch 4"),
        ({"balanced": (2, 3), "micro_batch": 4}, "2 classes of 3 clips need batch and micro_batch 6"),
    ],
)
def test_recipes_that_make_no_sense(changes, message):
    with pytest.raises(ReproError, match=message):
        replace(RECIPE, **changes)


# ---------------------------------------------------------------- the same bits


def test_two_runs_are_equal_to_the_bit_and_seeds_differ():
    first, losses = uninterrupted()
    again, same = uninterrupted()
    assert losses == same
    assert same_weights(first, again)
    model, samples = fresh_run(seed=2)
    assert train(model, samples, RECIPE).losses != losses


def test_loader_processes_do_not_change_a_bit():
    recipe = replace(RECIPE, iterations=3)
    model, samples = fresh_run()
    losses = train(model, samples, recipe, workers=1).losses
    reference, expected = uninterrupted(recipe)
    assert losses == expected
    assert same_weights(model, reference)


@pytest.mark.parametrize("stop", [1, 5, 11])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path, stop):
    model, samples = fresh_run()
    train(model, samples, RECIPE, run_dir=tmp_path, stop_after=stop)
    torch.manual_seed(123)  # whatever happened between must not matter
    model = TinyNet()
    history = train(model, samples, RECIPE, run_dir=tmp_path)
    reference, losses = uninterrupted()
    assert history.resumed_at == stop
    assert history.losses == losses
    assert same_weights(model, reference)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == RECIPE.iterations


def test_a_finished_run_is_only_loaded(tmp_path):
    model, samples = fresh_run()
    losses = train(model, samples, RECIPE, run_dir=tmp_path).losses
    samples.store = None  # reading a clip would fail
    other = TinyNet()
    assert train(other, samples, RECIPE, run_dir=tmp_path).losses == losses
    assert same_weights(model, other)


def test_a_killed_process_is_resumed_with_the_same_bits(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    here = Path(__file__).parent
    with subprocess.Popen(
        [sys.executable, "fakes.py", str(tmp_path)], cwd=here, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == 6:
                process.send_signal(signal.SIGKILL)
                break
        process.stdout.read()
    assert process.returncode == -signal.SIGKILL
    # What a kill while writing leaves behind: lines after the last checkpoint, half a line, half a checkpoint.
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"iteration": 8, "loss": 1.0, "lr": 0.05}\n{"iterat')
    (tmp_path / ".checkpoint.pt.1.partial").write_bytes(b"half")
    torch.manual_seed(7)
    model, (_, samples) = TinyNet(), fresh_run()
    history = train(model, samples, RECIPE, run_dir=tmp_path)
    reference, losses = uninterrupted()
    assert 5 <= history.resumed_at <= 8
    assert history.losses == losses
    assert same_weights(model, reference)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == list(range(1, 13))
    assert [line["loss"] for line in lines] == losses


def test_interrupting_leaves_a_resumable_state_and_no_open_file(tmp_path):
    def progress(done: int, total: int, loss: float) -> None:
        if done == 5:
            raise KeyboardInterrupt

    model, samples = fresh_run()
    with pytest.raises(KeyboardInterrupt):
        train(model, samples, RECIPE, run_dir=tmp_path, checkpoint_seconds=0.0, progress=progress)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 5
    assert train(TinyNet(), samples, RECIPE, run_dir=tmp_path).losses == uninterrupted()[1]


def test_stopping_early_shows_the_first_losses_of_the_whole_run():
    model, samples = fresh_run()
    recipe = replace(RECIPE, schedule="cosine", warmup=2)
    assert train(model, samples, recipe, stop_after=3).losses == uninterrupted(recipe)[1][:3]


# ---------------------------------------------------------------- the arithmetic


def test_accumulated_gradients_equal_the_big_batch():
    weights, losses = [], []
    for micro_batch in (4, 2, 1):
        torch.manual_seed(1)
        model = TinyNet(dropout=0.0)
        samples = TrainingSamples(FakeStore(), make_clips(7), SAMPLING, 1)
        losses.append(train(model, samples, replace(RECIPE, micro_batch=micro_batch)).losses)
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert losses[2] == pytest.approx(losses[0], abs=1e-5)
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(weights[2], weights[0], rtol=1e-4, atol=1e-5)


def test_one_step_against_the_textbook():
    """v = g + decay w; w -= lr v, with the gradient of the summed cross-entropies."""
    torch.manual_seed(1)
    model = TinyNet(dropout=0.0)
    before = {k: v.clone() for k, v in model.named_parameters()}
    samples = TrainingSamples(FakeStore(), make_clips(4), SAMPLING, 1)
    recipe = Recipe(1, 4, 4, 0.1, weight_decay=0.01, clip_norm=1e9)
    history = train(model, samples, recipe)

    reference = TinyNet(dropout=0.0)
    reference.load_state_dict(before)
    epoch0 = [samples[0, i] for i in range(4)]
    rgb = torch.stack([s["rgb"] for s in epoch0]).float() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    rgb = (rgb - mean[:, None, None]) / std[:, None, None]
    flow = (torch.stack([s["flow"] for s in epoch0]).float() - 128) / (255 * 0.226)
    labels = torch.stack([s["label"] for s in epoch0])
    loss = sum(torch.nn.functional.cross_entropy(x, labels) for x in reference(rgb, flow).values())
    loss.backward()
    assert history.losses[0] == pytest.approx(loss.item(), rel=1e-5)
    for name, parameter in reference.named_parameters():
        expected = parameter - 0.1 * (parameter.grad + 0.01 * parameter)
        torch.testing.assert_close(dict(model.named_parameters())[name], expected, rtol=1e-5, atol=1e-6)


def test_long_gradients_are_cut():
    steps = []
    for clip_norm in (1e-3, 1e9):
        torch.manual_seed(1)
        model = TinyNet(dropout=0.0)
        before = torch.cat([p.detach().clone().flatten() for p in model.parameters()])
        samples = TrainingSamples(FakeStore(), make_clips(4), SAMPLING, 1)
        train(model, samples, Recipe(1, 4, 4, 1.0, weight_decay=0.0, clip_norm=clip_norm))
        steps.append(float((torch.cat([p.detach().flatten() for p in model.parameters()]) - before).norm()))
    assert steps[0] == pytest.approx(1e-3, rel=1e-2)
    assert steps[1] > 0.01


def test_one_batch_can_be_overfitted():
    torch.manual_seed(1)
    model = TinyNet(dropout=0.0, channels=16)
    sampling = replace(SAMPLING, scales=(0.75,), flip=False)
    samples = TrainingSamples(FakeStore({c.id: (5, 12, 12) for c in make_clips(4)}), make_clips(4), sampling, 1)
    losses = train(model, samples, Recipe(250, 4, 4, 0.1, weight_decay=0.0)).losses
    assert losses[0] > 1.0, "two streams of two classes begin near 2 ln 2"
    assert sum(losses[-10:]) / 10 < 0.1


# ---------------------------------------------------------------- what is wrong


class Exploding(TinyNet):
    """Finite at first, then not."""

    calls = 0

    def forward(self, rgb, flow):
        self.calls += 1
        return {k: v * (math.inf if self.calls > 2 else 1.0) for k, v in super().forward(rgb, flow).items()}


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    _, samples = fresh_run()
    recipe = replace(RECIPE, micro_batch=4, lr=0.25)
    with pytest.raises(TrainingError, match=r"^the loss is nan.* at iteration 3: lower lr \(now 0.25\)$"):
        train(Exploding(), samples, recipe, run_dir=tmp_path)


class Steep(TinyNet):
    """A finite loss whose gradient is not."""

    def forward(self, rgb, flow):
        return {k: v + torch.sqrt(0.0 * v.sum()) for k, v in super().forward(rgb, flow).items()}


def test_a_gradient_that_is_not_finite_stops_the_run_before_it_spoils_the_weights():
    _, samples = fresh_run()
    model = Steep()
    with pytest.raises(TrainingError, match="gradient's norm nan, at iteration 1: lower lr"):
        train(model, samples, RECIPE)
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_a_checkpoint_of_another_network_or_class_count(tmp_path):
    model, samples = fresh_run()
    train(model, samples, RECIPE, run_dir=tmp_path, stop_after=1)
    for other in (TinyNet(3), TinyNet(channels=4), torch.nn.Linear(2, 2)):
        before = {k: v.clone() for k, v in other.state_dict().items()}
        with pytest.raises(
            ReproError, match=r"belongs to another network or class count \(first difference: "
        ) as error:
            load_checkpoint(tmp_path / "checkpoint.pt", other)
        assert "\n" not in str(error.value)
        assert all(torch.equal(v, before[k]) for k, v in other.state_dict().items()), "nothing may be loaded half"


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text", "list"])
def test_a_damaged_checkpoint(tmp_path, damage):
    model, samples = fresh_run()
    train(model, samples, RECIPE, run_dir=tmp_path, stop_after=1)
    path = tmp_path / "checkpoint.pt"
    whole = path.read_bytes()
    if damage == "list":
        save_atomically([1, 2], path)
    else:
        flipped = bytearray(whole)
        flipped[whole.find(model.classify["spatial"].weight.detach().numpy().tobytes())] ^= 0x40
        path.write_bytes({"cut": whole[: len(whole) // 2], "flip": flipped, "empty": b"", "text": b"no\n"}[damage])
    with pytest.raises(ReproError, match="no readable checkpoint .*: delete it to start anew") as error:
        train(TinyNet(), samples, RECIPE, run_dir=tmp_path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_checkpoint_says_which_devices_trained_it(tmp_path):
    model, samples = fresh_run()
    history = train(model, samples, RECIPE, run_dir=tmp_path, stop_after=2, begun_on=["A GPU", "cpu", "A GPU"])
    assert history.devices == ("A GPU", "cpu")
    read = read_history(tmp_path / "checkpoint.pt")
    assert (read.losses, read.devices, read.resumed_at) == (history.losses, history.devices, 2)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    save_atomically(state | {"devices": ["B GPU"]}, tmp_path / "checkpoint.pt")
    assert train(TinyNet(), samples, RECIPE, run_dir=tmp_path, stop_after=2).devices == ("B GPU",), "nothing is trained"
    assert train(TinyNet(), samples, RECIPE, run_dir=tmp_path).devices == ("B GPU", "cpu")
    assert read_history(tmp_path / "checkpoint.pt").devices == ("B GPU", "cpu")
    read_history(tmp_path / "checkpoint.pt").losses.clear()
    assert len(read_history(tmp_path / "checkpoint.pt").losses) == RECIPE.iterations
    (tmp_path / "checkpoint.pt").write_bytes(b"no")
    with pytest.raises(ReproError, match="no readable checkpoint .*: delete it to start anew"):
        read_history(tmp_path / "checkpoint.pt")


def test_checkpoints_replace_each_other_whole(tmp_path):
    path = tmp_path / "deep" / "checkpoint.pt"
    save_atomically({"a": 1}, path)

    class Unwritable:
        def __reduce__(self):
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        save_atomically({"a": Unwritable()}, path)
    assert torch.load(path, weights_only=True) == {"a": 1}
    assert [p.name for p in path.parent.iterdir()] == ["checkpoint.pt"], "no litter"


def test_devices():
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("gpu", "cuda:x", "mps", "meta", ""):
        with pytest.raises(ReproError, match="device"):
            pick_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_asking_for_cuda_where_there_is_none():
    model, samples = fresh_run()
    for name in ("cuda", "cuda:0"):
        with pytest.raises(ReproError, match="this machine has no CUDA; use device=cpu or device=auto"):
            pick_device(name)
        with pytest.raises(ReproError, match="no CUDA"):
            train(model, samples, RECIPE, device=name)


def test_no_training_clip():
    with pytest.raises(TrainingError, match="no training clip"):
        train(TinyNet(), TrainingSamples(FakeStore(), [], SAMPLING, 1), RECIPE)


def test_a_loss_for_each_chunk_is_their_mean():
    torch.manual_seed(0)
    chunks, plain, labels = torch.randn(4, 5, 3), torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    slow = sum(-torch.log_softmax(chunks[b, t], 0)[labels[b]] for b in range(4) for t in range(5)) / 20
    slow = slow + sum(-torch.log_softmax(plain[b], 0)[labels[b]] for b in range(4)) / 4
    assert float(sum_of_losses({"a": chunks, "b": plain}, labels)) == pytest.approx(float(slow), rel=1e-6)


# ---------------------------------------------------------------- networks over time, losses between clips


class TinyNet3D(torch.nn.Module):
    """A convolution over (channels, snippets, height, width), and a 2D one behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv3d, self.conv2d = torch.nn.Conv3d(3, 4, 3, padding=1), torch.nn.Conv2d(4, 2, 3)

    def forward(self, rgb, flow):
        x = torch.relu(self.conv3d(rgb.transpose(1, 2))).mean(2)
        return {"rgb": self.conv2d(x).mean((2, 3))}


def test_3d_convolutions_train_and_are_tested():
    torch.manual_seed(0)
    model, samples = TinyNet3D(), TrainingSamples(FakeStore(), make_clips(4), replace(SAMPLING, streams=("rgb",)), 1)
    before = model.conv3d.weight.detach().clone()
    train(model, samples, replace(RECIPE, iterations=2))
    assert not torch.equal(model.conv3d.weight, before)
    assert model.conv2d.weight.is_contiguous(memory_format=torch.channels_last)
    logits = evaluate(model, FakeStore(), make_clips(3), samples.sampling, TestViews("x", 2, "full"))
    assert logits["rgb"].shape == (3, 2)


def test_a_loss_may_ask_for_balanced_batches():
    seen = []

    def loss(outputs, labels):
        seen.append(labels.tolist())
        return sum_of_losses(outputs, labels)

    recipe = replace(RECIPE, iterations=5, micro_batch=4, balanced=(2, 2))
    clips = [clip for clip in make_clips(12) if clip.label == 0 or clip.id.endswith("01")]  # six of one, one of another
    samples = TrainingSamples(FakeStore(), clips, SAMPLING, 1)
    torch.manual_seed(1)
    losses = train(TinyNet(), samples, recipe, loss=loss).losses
    assert len(seen) == 5 and all(sorted(labels) == [0, 0, 1, 1] for labels in seen)
    plain = replace(recipe, balanced=None)
    torch.manual_seed(1)
    assert train(TinyNet(), samples, plain, loss=loss).losses != losses
    assert any(sorted(labels) != [0, 0, 1, 1] for labels in seen[5:])


# ---------------------------------------------------------------- torch.compile


@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # of torch's own
def test_a_compiled_network_learns_the_same(tmp_path):
    histories = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model, samples = TinyNet(dropout=0), fresh_run()[1]
        histories.append(train(model, samples, RECIPE, run_dir=tmp_path / str(compiled), compiled=compiled))
    assert histories[0].losses == pytest.approx(histories[1].losses, rel=1e-4)
    assert histories[0].devices == ("cpu",) and histories[1].devices == ("cpu compiled",)
    load_checkpoint(tmp_path / "True" / "checkpoint.pt", TinyNet())  # the names of its weights are the network's own
