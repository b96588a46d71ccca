"""Memoised runs on a tiny data set of real video files: what is trained when, under which key, and what is filed."""

import json
import shlex
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import RECIPE, SAMPLING, TinyNet, make_clips, save_clip, tiny_net

import repro.experiments
from repro.costs import together
from repro.data.catalog import Clip, Dataset, load_dataset
from repro.data.clips import Sampling
from repro.errors import ReproError
from repro.experiments import Experiment, Lab, fold_of, seeds_of, thin
from repro.flow.store import ClipStore
from repro.flow.tvl1 import backend_name
from repro.plans import cost_of_starts, estimate, run_all
from repro.results import Library, Result, comparable, rows
from repro.training import save_atomically, sum_of_losses

EXPERIMENT = Experiment(
    paper="paper", name="tiny", preset="small", config={"width": 0.25}, recipe=replace(RECIPE, iterations=4),
    sampling=SAMPLING, protocol="smoke", build=tiny_net,
)  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for i in range(12):
        save_clip(root / ("right" if i % 2 else "down") / f"v{i:02d}.avi", i, i % 2)
    return root


@pytest.fixture(scope="module")
def store(root):
    """Frames and flow, extracted once: labs of different tests may share them."""
    return ClipStore(root.parent / "store", short_side=16, flow_backend=backend_name())


@pytest.fixture
def lab(root, store, tmp_path):
    return make_lab(root, store, tmp_path / "runs")


def make_lab(root: Path, store: ClipStore, runs: Path, **options: object) -> Lab:
    dataset = load_dataset("folder", root)
    settings = {"split": dataset.splits[0], "runs_dir": runs, "device": "cpu", **options}
    return Lab(dataset, store, Library(runs / "results"), **settings)


def no_training(*_, **__):
    raise AssertionError("something is trained")


# ---------------------------------------------------------------- memoised


def test_what_is_not_used_does_not_enter_the_key():
    identity = EXPERIMENT.identity()
    assert not {"balanced"} & identity["recipe"].keys() and not {"stride", "sides"} & identity["sampling"].keys()
    recipe = replace(EXPERIMENT.recipe, micro_batch=4, balanced=(2, 2))
    assert replace(EXPERIMENT, recipe=recipe).identity()["recipe"]["balanced"] == [2, 2]


def test_an_experiment_may_have_a_loss_of_its_own(lab):
    """The run, its first losses and its repetition all use it, and batches that are balanced."""
    recipe = replace(EXPERIMENT.recipe, micro_batch=4, balanced=(2, 2))
    mine = replace(EXPERIMENT, config={"loss": "double"}, recipe=recipe, loss=double)
    plain = replace(EXPERIMENT, config={"loss": "plain"}, recipe=recipe)
    lost = lab.run(mine, 1).row["provenance"]["first_losses"]
    assert lost[0] == pytest.approx(2 * lab.run(plain, 1).row["provenance"]["first_losses"][0], abs=2e-6)
    assert lab.verify(mine, 1) and not lab.verify(replace(mine, loss=plain.loss), 1)
    assert lab.repeat(mine, 1).losses[:3] == pytest.approx(lost, abs=1e-6)


def double(outputs, labels):
    return 2 * sum_of_losses(outputs, labels)


def test_a_second_call_trains_nothing(lab, root, store, tmp_path, monkeypatch):
    assert not lab.has(EXPERIMENT, 1)
    first = lab.run(EXPERIMENT, 1)
    assert lab.has(EXPERIMENT, 1)
    monkeypatch.setattr(repro.experiments, "train", no_training)
    lab.forget(EXPERIMENT, 1)  # nor does it need the checkpoint
    for again in (lab.run(EXPERIMENT, 1), make_lab(root, store, tmp_path / "runs").run(EXPERIMENT, 1)):
        assert again.row == first.row
        assert all(np.array_equal(again.arrays[k], first.arrays[k]) for k in first.arrays)
    with pytest.raises(AssertionError, match="trained"):
        lab.run(EXPERIMENT, 2)


def test_what_is_filed(lab):
    result = lab.run(EXPERIMENT, 3)
    training, testing = lab.clips(EXPERIMENT)
    assert len(training) == 8
    assert len(testing) == 4
    for part, clips in (("train", training), ("test", testing)):
        assert result.ids(part) == [c.id for c in clips]
        assert result.labels(part).tolist() == [c.label for c in clips]
        assert result.groups(part).tolist() == [c.group for c in clips]
        for output in ("spatial", "temporal"):
            assert result.logits(output, part).shape == (len(clips), 2)
            assert np.isfinite(result.logits(output, part)).all()
    assert result.outputs == ["spatial", "temporal"]
    assert result.arrays["losses"].shape == (4,)
    [(path, row)] = list(rows(lab.library.own))
    assert row == result.row
    assert path.with_suffix(".npz").stat().st_size < 100_000
    assert row["provenance"]["first_losses"] == pytest.approx(result.arrays["losses"][:3], abs=1e-5)
    assert {"commit", "date", "device", "python", "versions", "seconds"} <= row["provenance"].keys()
    assert row["key"] == lab.key(EXPERIMENT, 3)
    assert row["fingerprint"] == lab.dataset.fingerprint
    assert row["classes"] == ["down", "right"]
    assert row["identity"] == EXPERIMENT.identity()
    assert row["store"]["short_side"] == 16
    assert row["command"] == "repro train paper tiny --dataset folder --split stratified --seeds 3 --preset small"
    fold = replace(EXPERIMENT, fold=(0, 2))
    assert lab.run(fold, 3).row["command"].endswith(" --fold 1/2")
    given = lab.run(replace(EXPERIMENT, config={}, weights="my weights.pth"), 3).row["command"]
    assert shlex.split(given)[-2:] == ["--weights", "my weights.pth"]


def test_logits_are_those_of_the_trained_network(lab):
    result = lab.run(EXPERIMENT, 1)
    model = TinyNet()
    state = torch.load(lab.runs_dir / "checkpoints" / result.key / "checkpoint.pt", weights_only=True)
    model.load_state_dict(state["model"])
    testing = lab.clips(EXPERIMENT)[1]
    logits = lab.evaluate(model, EXPERIMENT, testing)
    for name, x in logits.items():
        np.testing.assert_array_equal(x.astype(np.float16), result.arrays[f"test_{name}"])


def test_an_interrupted_run_files_nothing_and_can_be_done_again(lab, root, store, tmp_path):
    def interrupt(what: str, done: int, total: int) -> None:
        if what == "tiny seed 1" and done == 3:
            raise KeyboardInterrupt

    lab.progress = interrupt
    with pytest.raises(KeyboardInterrupt):
        lab.run(EXPERIMENT, 1)
    assert not list(rows(lab.library.own))
    lab.progress = None
    result = lab.run(EXPERIMENT, 1)
    expected = make_lab(root, store, tmp_path / "other").run(EXPERIMENT, 1)
    assert all(np.array_equal(result.arrays[k], expected.arrays[k]) for k in expected.arrays)


# ---------------------------------------------------------------- keys


def fixed_lab(tmp_path: Path, **changes: object) -> Lab:
    """A lab whose key depends on nothing outside this file."""
    facts = {"name": "d", "root": Path("x"), "classes": ("a", "b"), "clips": (), "splits": ("s1",), "fingerprint": "f"}
    store = ClipStore(tmp_path / str(changes.get("short_side", 16)), short_side=changes.pop("short_side", 16))
    split = changes.pop("split", "s1")
    return Lab(Dataset(**{**facts, **changes}), store, Library(tmp_path / "r"), split=split, runs_dir=tmp_path)


def test_every_part_of_an_identity_enters_the_key(tmp_path):
    lab = fixed_lab(tmp_path)
    variants = [EXPERIMENT]
    for what, value in (("recipe", EXPERIMENT.recipe), ("sampling", EXPERIMENT.sampling)):
        others = {"schedule": "cosine", "flip": False, "streams": ("rgb",), "milestones": (7,), "scales": (1.0,)}
        others |= {"micro_batch": 1}
        for name, old in asdict(value).items():
            if name == "balanced":  # asks for a batch of its own
                whole = replace(value, micro_batch=value.batch)
                made = (whole, replace(whole, balanced=(2, 2)), replace(whole, balanced=(1, 4)))
                variants += [replace(EXPERIMENT, recipe=recipe) for recipe in made]
                continue
            other = others.get(name, 8 if isinstance(old, int) else 0.123)
            variants.append(replace(EXPERIMENT, **{what: replace(value, **{name: other})}))
    variants += [replace(EXPERIMENT, paper="other"), replace(EXPERIMENT, config={"width": 0.5})]
    variants += [replace(EXPERIMENT, protocol="quick"), replace(EXPERIMENT, per_class=(1, 2))]
    variants += [replace(EXPERIMENT, fold=fold) for fold in ((0, 2), (1, 2), (0, 3))]
    keys = [lab.key(e, 1) for e in variants] + [lab.key(EXPERIMENT, 2)]
    for changes in ({"name": "e"}, {"fingerprint": "g"}, {"split": "s2"}, {"short_side": 32}):
        keys.append(fixed_lab(tmp_path, **changes).key(EXPERIMENT, 1))
    assert len(set(keys)) == len(keys)


def test_names_and_machines_do_not_enter_the_key(tmp_path):
    lab = fixed_lab(tmp_path)
    for same in ({"name": "other"}, {"preset": "other"}, {"build": no_training}):
        assert lab.key(replace(EXPERIMENT, **same), 1) == lab.key(EXPERIMENT, 1)
    other = Lab(lab.dataset, lab.store, lab.library, split="s1", runs_dir=tmp_path / "else", device="cpu", workers=3)
    assert other.key(EXPERIMENT, 1) == lab.key(EXPERIMENT, 1)


def test_keys_stay_what_they_were(tmp_path):
    """A new field of Recipe, Sampling or Experiment changes every key: recorded rows would be lost."""
    assert fixed_lab(tmp_path).key(EXPERIMENT, 1) == "3c3d163e8f9e21bb"


# ---------------------------------------------------------------- which clips


@pytest.mark.parametrize(("n", "folds"), [(10, 3), (9, 9), (2, 2), (7, 1)])
def test_folds_are_even_complete_and_know_no_order(n, folds):
    groups = [f"person {i}" for i in range(n)]
    found = fold_of(groups * 3, folds)
    assert found == fold_of(reversed(groups), folds)
    assert set(found) == set(groups)
    sizes = np.bincount(list(found.values()), minlength=folds)
    assert len(sizes) == folds
    assert sizes.max() - sizes.min() <= 1


def test_folds_cover_the_training_clips_and_no_group_is_on_both_sides(tmp_path):
    clips = tuple(
        Clip(f"c{i % 2}/v{i}", "", i % 2, f"g{i % 7}", {"s": "test" if i % 7 == 0 else "train"}) for i in range(28)
    )
    lab = fixed_lab(tmp_path, clips=clips, splits=("s",), split="s")
    held_out = []
    for k in range(3):
        training, testing = lab.clips(replace(EXPERIMENT, fold=(k, 3)))
        assert not {c.group for c in training} & {c.group for c in testing}
        assert {c.splits["s"] for c in (*training, *testing)} == {"train"}
        assert len(training) + len(testing) == 24
        held_out += testing
    assert sorted(c.id for c in held_out) == sorted(c.id for c in clips if c.splits["s"] == "train")


def test_thinning_keeps_that_many_of_each_class_whatever_the_order():
    clips = make_clips(30, classes=3)
    for n in (1, 4, 10, 50):
        kept = thin(clips, n)
        assert [sum(c.label == label for c in kept) for label in range(3)] == [min(n, 10)] * 3
        assert list(kept) == sorted(kept, key=lambda c: c.id)
        assert kept == thin(clips[::-1], n)
        assert set(kept) <= set(thin(clips, n + 1))
    assert set(thin(clips, 4)) != set(clips[:12]), "not simply the first ones"


def test_a_video_that_cannot_be_read_is_left_out_by_choice(tmp_path):
    root, store = tmp_path / "data", ClipStore(tmp_path / "store", short_side=16, flow_backend=backend_name())
    for i in range(8):
        save_clip(root / ("right" if i % 2 else "down") / f"v{i}.avi", i, i % 2)
    bad = load_dataset("folder", root).select("stratified", "train")[1]
    (root / bad.path).write_bytes(b"RIFF no video")
    with pytest.raises(ReproError, match=Path(bad.path).name):
        make_lab(root, store, tmp_path / "a").run(EXPERIMENT, 1)
    lab = make_lab(root, store, tmp_path / "b", on_error="skip")
    result = lab.run(EXPERIMENT, 1)
    assert bad.id not in result.ids("train")
    assert len(result.ids("train")) == 5
    assert list(result.row["left_out"]) == [bad.id]
    elsewhere = make_lab(root, store, tmp_path / "b", on_error="skip")  # does not know yet which clip is bad
    assert elsewhere.verify(EXPERIMENT, 1)


# ---------------------------------------------------------------- derived runs


def test_a_derived_run_starts_from_the_trained_network(lab, monkeypatch):
    calls = []

    def compute(model, training, testing):
        calls.append((len(training), len(testing)))
        scores = lab.evaluate(model, EXPERIMENT, testing)["spatial"]
        return {"test_svm": (2 * scores).astype(np.float16)}

    base = lab.run(EXPERIMENT, 1)
    derived = lab.derived(EXPERIMENT, 1, "svm", {"c": 1}, ["svm"], compute)
    assert isinstance(derived, Result)
    np.testing.assert_allclose(derived.logits("svm"), 2 * base.logits("spatial"), rtol=2e-3)
    assert derived.row["experiment"] == "tiny+svm"
    assert derived.row["derived"] == {"of": base.key, "settings": {"c": 1}}
    assert derived.outputs == ["svm"]
    assert derived.ids() == base.ids()
    lab.derived(EXPERIMENT, 1, "svm", {"c": 1}, ["svm"], compute)
    assert calls == [(8, 4)], "the second call computes nothing"
    keys = {lab.derived(EXPERIMENT, 1, name, {"c": c}, ["svm"], compute).key for name, c in (("svm", 2), ("svm2", 1))}
    assert len(keys | {derived.key, base.key}) == 4


# ---------------------------------------------------------------- runs that start from others


def take_over(model: torch.nn.Module, states: object) -> None:
    model.load_state_dict(states[0])


SECOND = replace(EXPERIMENT, name="second", config={"width": 0.25, "phase": 2}, start=(EXPERIMENT,), begin=take_over)
IMAGES = Experiment(
    paper="paper", name="images", preset="small", config={"width": 0.25}, recipe=replace(RECIPE, iterations=3),
    sampling=Sampling(1, 3, 12, streams=("rgb",)), protocol="smoke", build=tiny_net,
    images={"classes": 3, "per_class": 10, "size": 20, "crop": 12, "seed": 5},
)  # fmt: skip


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.flatten() for p in model.parameters()])


def test_a_run_begins_where_another_ended(lab, monkeypatch):
    begun = []
    second = replace(SECOND, begin=lambda model, states: (take_over(model, states), begun.append(weights(model))))
    lab.run(second, 1)
    assert not lab.has(EXPERIMENT, 1), "only what was asked for is filed"
    lab.run(EXPERIMENT, 1)
    assert torch.equal(begun[0], weights(lab.network(EXPERIMENT, 1)))
    assert not torch.equal(begun[0], weights(lab.network(second, 1)))
    assert lab.unfinished_starts(SECOND, 1) == [] and lab.verify(SECOND, 1)
    lab.forget(EXPERIMENT, 1)
    assert lab.unfinished_starts(SECOND, 1) == [EXPERIMENT]
    monkeypatch.setattr(repro.experiments, "train", no_training)
    lab.network(SECOND, 1)  # its own checkpoint is enough
    with pytest.raises(AssertionError, match="trained"):
        lab.verify(SECOND, 1)


def test_a_start_that_ends_differently_on_another_processor(lab):
    run_all(lab, [(EXPERIMENT, 1), (SECOND, 1)])
    assert not lab.drifted(SECOND, 1) and not lab.drifted(EXPERIMENT, 1)
    result = lab.library.get(lab.key(EXPERIMENT, 1))
    result.arrays["losses"][-1] += 0.1  # after the three that a row is judged by
    lab.library.put(result)
    assert lab.drifted(SECOND, 1) and not lab.drifted(EXPERIMENT, 1)
    third = replace(SECOND, name="third", config={"phase": 3}, start=(SECOND,))
    assert lab.drifted(third, 1)


def on_a_gpu(lab: Lab, experiment: Experiment, seed: int, devices: list[str] | None) -> None:
    """Rewrite a run's checkpoint as if these devices had trained it; None: as checkpoints were before they said so."""
    path = lab.runs_dir / "checkpoints" / lab.key(experiment, seed) / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    del state["devices"]
    save_atomically(state | ({"devices": devices} if devices else {"cuda_rng": state["rng"]}), path)


@pytest.mark.parametrize(("devices", "name"), [(["A GPU"], "A GPU"), (None, "cuda")])
def test_a_row_says_what_its_starts_were_trained_on(lab, devices, name):
    lab.run(EXPERIMENT, 1)
    on_a_gpu(lab, EXPERIMENT, 1, devices)
    third = replace(SECOND, name="third", config={"phase": 3}, start=(SECOND,))
    for experiment in (SECOND, third):
        row = lab.run(experiment, 1).row
        assert row["provenance"]["device"] == f"{name} + cpu"
        assert not comparable(row, "cpu") and not comparable(row, "cuda")
        assert lab.drifted(experiment, 1), "no page compares its losses"
    lab.forget(EXPERIMENT, 1)
    derived = lab.derived(SECOND, 1, "x", {}, [], lambda *_: {})
    assert derived.row["provenance"]["device"] == f"{name} + cpu", "the start is gone and still known"
    assert lab.library.get(lab.key(EXPERIMENT, 1)).row["provenance"]["device"] == "cpu", "that was trained here"


def test_a_recorded_run_whose_start_here_is_of_another_device(lab):
    run_all(lab, [(EXPERIMENT, 1), (SECOND, 1)])
    assert not lab.drifted(SECOND, 1)
    on_a_gpu(lab, EXPERIMENT, 1, ["A GPU"])
    assert lab.drifted(SECOND, 1)


def test_a_run_that_another_device_began_or_finished(lab):
    def interrupt(what: str, done: int, total: int) -> None:
        if what == "tiny test":
            raise KeyboardInterrupt

    lab.progress = interrupt
    with pytest.raises(KeyboardInterrupt):
        lab.run(EXPERIMENT, 1)
    lab.progress = None
    on_a_gpu(lab, EXPERIMENT, 1, ["A GPU"])
    assert lab.run(EXPERIMENT, 1).row["provenance"]["device"] == "A GPU + cpu"


def test_what_a_run_starts_from_is_part_of_its_key_and_shares_its_fold(tmp_path):
    lab = fixed_lab(tmp_path)
    other = replace(EXPERIMENT, recipe=replace(EXPERIMENT.recipe, lr=0.7))
    keys = {lab.key(replace(SECOND, start=s), 1) for s in ((), (EXPERIMENT,), (other,), (EXPERIMENT, other))}
    assert len(keys) == 4
    folded = replace(SECOND, fold=(1, 2), per_class=(3, 3))
    assert [(e.fold, e.per_class) for e in folded.starts()] == [((1, 2), (3, 3))]
    assert [e.name for e in replace(folded, name="second/fold-2-of-2").starts()] == ["tiny/fold-2-of-2"]
    assert folded.identity()["start"][0]["fold"] == [1, 2]


def test_all_trainings_that_a_run_needs():
    """Each once, though two start from it, and in an order in which they can be done."""
    first = replace(EXPERIMENT, name="first")
    second, third = (replace(EXPERIMENT, name=name, start=(first,)) for name in ("second", "third"))
    last = replace(EXPERIMENT, name="last", start=(third, second))
    assert [one.name for one in last.trainings()] == ["first", "third", "second", "last"]
    fold = replace(last, name="last/fold-1-of-4", fold=(0, 4))
    assert {one.fold for one in fold.trainings()} == {(0, 4)}
    assert EXPERIMENT.trainings() == (EXPERIMENT,)


def test_runs_side_by_side_do_first_what_others_start_from(root, store, tmp_path):
    lab = make_lab(root, store, tmp_path / "runs")
    third = replace(SECOND, name="third", config={"phase": 3}, start=(SECOND,))
    run_all(lab, [(third, 1), (SECOND, 1), (EXPERIMENT, 1)], processes=2)
    serial = make_lab(root, store, tmp_path / "serial")
    for experiment in (EXPERIMENT, SECOND, third):
        a, b = lab.run(experiment, 1), serial.run(experiment, 1)
        assert all(np.array_equal(a.arrays[k], b.arrays[k]) for k in a.arrays | b.arrays)
    lab.forget(EXPERIMENT, 1)
    fourth = replace(SECOND, name="fourth", config={"phase": 4})
    assert estimate(lab, [(fourth, 1)]).runs == 2, "the network that it starts from is gone"
    run_all(lab, [(fourth, 1)], processes=2)
    assert lab.has(fourth, 1)


def test_a_training_on_generated_images(lab, root, store, tmp_path):
    result = lab.run(IMAGES, 1)
    assert lab.run(IMAGES, 2).key == result.key, "all seeds share one pre-training"
    assert (result.row["dataset"], result.row["seed"], len(result.row["classes"])) == ("textures", 5, 3)
    assert result.logits("spatial").shape == (6, 3) and len(set(result.ids())) == 6
    assert "train_spatial" not in result.arrays
    assert lab.verify(IMAGES, 1)
    elsewhere = replace(lab.dataset, name="other", fingerprint="0")
    assert Lab(elsewhere, store, Library(tmp_path), split="x", runs_dir=tmp_path).key(IMAGES, 3) == result.key
    longer = replace(IMAGES, recipe=RECIPE)
    assert estimate(lab, [(longer, 1)]).runs == 1
    both = [estimate(lab, [(longer, 1), (replace(SECOND, start=(longer,)), seed)]) for seed in (1, 2)]
    assert [part.runs for part in both] == [2, 2] and together(both).runs == 3, "one pre-training serves all splits"
    assert together(both).train_seconds == pytest.approx(
        both[0].train_seconds + estimate(lab, [(replace(SECOND, start=()), 1)]).train_seconds
    )
    second = replace(SECOND, start=(IMAGES,), begin=lambda model, states: None)
    assert replace(second, fold=(0, 2)).starts() == (IMAGES,)
    lab.run(second, 1)


# ---------------------------------------------------------------- does it repeat?


def test_a_run_that_repeats(lab, root, store, tmp_path):
    result = lab.run(EXPERIMENT, 1)
    before = sorted(p for p in tmp_path.rglob("*"))
    assert lab.first_losses(EXPERIMENT, 1) == pytest.approx(result.arrays["losses"][:3], abs=1e-6)
    assert lab.verify(EXPERIMENT, 1)
    assert lab.repeat(EXPERIMENT, 1).losses == pytest.approx(result.arrays["losses"], abs=1e-6)
    assert sorted(p for p in tmp_path.rglob("*")) == before, "a check leaves nothing behind"


def test_only_the_parts_that_are_kept_are_scored_and_the_key_is_the_same(lab, tmp_path):
    mine = replace(EXPERIMENT, keep=("test",))
    assert lab.key(mine, 1) == lab.key(EXPERIMENT, 1)
    arrays = lab.run(mine, 1).arrays
    assert {name for name in arrays if name.startswith("train")} == set()
    assert {"test_ids", "test_labels", "test_groups", "losses"} < arrays.keys()
    training, testing = (len(part) for part in lab.clips(mine))
    assert (mine.scored(training, testing), EXPERIMENT.scored(training, testing)) == (testing, training + testing)


def test_a_run_seen_on_its_way(lab, tmp_path):
    """The last of its networks is the run's own, also when it is evaluated in between."""
    lab.run(EXPERIMENT, 1)
    final = lab.network(EXPERIMENT, 1).state_dict()
    before = sorted(p for p in tmp_path.rglob("*"))
    seen = []
    for model in lab.along(EXPERIMENT, 1, 2):
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        lab.evaluate(model, EXPERIMENT, lab.clips(EXPERIMENT)[1])
    assert len(seen) == 2 and all(torch.equal(value, seen[1][name]) for name, value in final.items())
    assert any(not torch.equal(value, seen[0][name]) for name, value in final.items())
    assert len(list(lab.along(EXPERIMENT, 1, 8))) == 8, "more parts than iterations"
    assert sorted(p for p in tmp_path.rglob("*")) == before


def test_a_run_is_stale_when_the_code_gives_other_losses(lab, monkeypatch):
    lab.run(EXPERIMENT, 1)
    assert not lab.verify(replace(EXPERIMENT, build=lambda classes: TinyNet(classes, dropout=0.0)), 1)


def test_a_run_is_stale_when_its_row_says_other_losses(lab):
    lab.run(EXPERIMENT, 1)
    [(path, row)] = list(rows(lab.library.own))
    row["provenance"]["first_losses"][2] += 0.02
    path.write_text(json.dumps(row))
    assert not lab.verify(EXPERIMENT, 1)


# ---------------------------------------------------------------- many runs


def broken_net(classes: int) -> torch.nn.Module:
    raise ReproError("this network cannot be built: choose another")


def test_two_processes_give_what_one_gives_and_an_error_in_one_loses_nothing(root, store, tmp_path):
    seen: list[tuple[str, int, int]] = []
    serial = make_lab(root, store, tmp_path / "serial")
    parallel = make_lab(root, store, tmp_path / "parallel", progress=lambda *at: seen.append(at))
    runs = [(EXPERIMENT, 1), (EXPERIMENT, 2)]
    run_all(serial, runs)
    with pytest.raises(ReproError, match="this network cannot be built"):
        run_all(parallel, [*runs, (replace(EXPERIMENT, paper="broken", build=broken_net), 1)], processes=2)
    assert ("runs", 1, 3) in seen
    for run in runs:
        assert parallel.has(*run)
        a, b = serial.run(*run), parallel.run(*run)
        assert all(np.array_equal(a.arrays[k], b.arrays[k]) for k in a.arrays | b.arrays)
        for result in (a, b):
            result.row["provenance"].pop("seconds")
        assert a.row == b.row


def test_finished_runs_are_skipped(lab, monkeypatch):
    run_all(lab, [(EXPERIMENT, 1)])
    monkeypatch.setattr(repro.experiments, "train", no_training)
    run_all(lab, [(EXPERIMENT, 1), (EXPERIMENT, 1)], processes=2)


# ---------------------------------------------------------------- what it will cost


def test_estimates(root, tmp_path):
    empty = ClipStore(tmp_path / "store", short_side=16, flow_backend=backend_name())
    lab = make_lab(root, empty, tmp_path / "runs")
    before = estimate(lab, [(EXPERIMENT, 1), (EXPERIMENT, 2)])
    assert before.runs == 2
    assert before.pairs == 12 * 9
    assert before.flow_seconds > 0
    assert before.store_bytes > 0
    longer = replace(EXPERIMENT, recipe=replace(RECIPE, iterations=4000))
    assert estimate(lab, [(longer, 1)]).train_seconds > 100 * before.train_seconds
    lab.run(EXPERIMENT, 1)
    after = estimate(lab, [(EXPERIMENT, 1), (EXPERIMENT, 2)])
    assert (after.runs, after.pairs) == (1, 0)
    assert after.train_seconds == pytest.approx(before.train_seconds / 2)
    assert estimate(lab, [(EXPERIMENT, 1)]).train_seconds == 0
    assert str(after).startswith("1 runs to train and test (0 s), 0 frames to decode (0 s), 0 flow fields to compute")


def test_estimates_read_each_checkpoint_once_and_no_weights(lab, monkeypatch):
    read, load = [], torch.load

    def counted(path, **options):
        read.append((Path(path).parent.name, options.get("mmap")))
        return load(path, **options)

    lab.network(EXPERIMENT, 1)
    others = [replace(SECOND, name=f"second {i}", config={"phase": i}) for i in range(3)]
    monkeypatch.setattr(torch, "load", counted)
    for _ in range(2):
        assert estimate(lab, [(e, 1) for e in others]).runs == 3
        assert lab.unfinished_starts(others[0], 1) == []
    assert read == [(lab.key(EXPERIMENT, 1), True)]
    lab.forget(EXPERIMENT, 1)
    assert estimate(lab, [(e, 1) for e in others]).runs == 4


def test_what_has_to_be_trained_before_runs_can_begin(lab):
    third = replace(SECOND, name="third", config={"phase": 3}, start=(SECOND,))
    assert cost_of_starts(lab, [(EXPERIMENT, 1)]).runs == 0
    cost = cost_of_starts(lab, [(third, 1), (SECOND, 1)])
    whole = estimate(lab, [(EXPERIMENT, 1), (SECOND, 1)])
    assert (cost.runs, cost.test_seconds) == (2, 0.0)
    assert cost.train_seconds == pytest.approx(whole.train_seconds) and whole.test_seconds > 0
    run_all(lab, [(third, 1), (SECOND, 1)])
    lab.forget(EXPERIMENT, 1)
    assert cost_of_starts(lab, [(third, 1)]).runs == 0
    lab.forget(SECOND, 1)
    assert cost_of_starts(lab, [(third, 1)]).runs == 2, "rows are no networks"


def test_weights_that_cannot_serve_all_base_networks_are_an_error_before_anything_runs(lab, tmp_path):
    runs = [(replace(EXPERIMENT, config={"b": b}, backbone=b, weights=str(tmp_path / "resnet50.pth")), 1)
            for b in ("resnet50", "vgg19")]  # fmt: skip
    (tmp_path / "resnet50.pth").touch()
    assert estimate(lab, runs[:1]).runs == 1
    with pytest.raises(ReproError, match="give a folder: .* missing: vgg19$"):
        estimate(lab, runs)


def test_seeds():
    assert seeds_of(1) == [1]
    assert seeds_of("2, 5") == [2, 5]
    assert seeds_of("all", known=(1, 2, 3)) == [1, 2, 3]
    for wrong in ("one", "", "1;2", None):
        with pytest.raises(ReproError, match="is not understood"):
            seeds_of(wrong)
