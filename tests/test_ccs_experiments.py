"""What is trained for the CCS chapter: names, scales, batches, losses and starting weights."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import FakeStore, make_clips

from repro.data.clips import TrainingSamples
from repro.data.facts import OFFICIAL
from repro.errors import ReproError
from repro.experiments import Experiment, thin
from repro.models import backbone
from repro.papers.ccs import CCS, Config
from repro.papers.ccs_experiments import KNOWN, VARIANTS, experiments, network, preset
from repro.papers.ccs_losses import CROSS_ENTROPY, PROPOSED, Losses, parts, total_loss
from repro.papers.reported import number, reported
from repro.report.claims import load_claims
from repro.training import order_of, to_network, train

SMALL = experiments("small", "motionshapes")


def config_of(experiment: Experiment) -> Config:
    """The configuration that the network is built with."""
    assert isinstance(experiment.build, partial) and experiment.build.func is network
    found = experiment.build.args[0]
    assert isinstance(found, Config)
    return found


def losses_of(experiment: Experiment) -> Losses:
    assert isinstance(experiment.loss, partial) and experiment.loss.func is total_loss
    found = experiment.loss.keywords["losses"]
    assert isinstance(found, Losses)
    return found


def differences(name: str, base: str) -> dict[str, object]:
    """What the configuration of one training has that another's has not; margins and weights of losses by name."""
    a, b = (asdict(config_of(SMALL[n])) for n in (name, base))
    a, b = (c.pop("losses") | c for c in (a, b))
    return {key: value for key, value in a.items() if value != b[key]}


# --- which trainings there are


def test_claims_ask_for_trainings_that_are_there() -> None:
    asked = {m for claim in load_claims("ccs") for t in claim.tests for m in (t.a, t.b) if m}
    names = {m.partition(":")[0] for m in asked} - {"best-single", "all@kinetics"}  # Kinetics is not trained here
    assert names <= VARIANTS.keys() and len(names) > 20
    for name in KNOWN:
        assert experiments(name, "motionshapes").keys() == VARIANTS.keys()


def test_no_two_trainings_are_the_same() -> None:
    identities = [str(e.identity()) for e in SMALL.values()]
    assert len(set(identities)) == len(VARIANTS)
    for name, e in SMALL.items():
        assert e.paper == "ccs" and e.name == name and not e.start and not e.images
        assert e.identity()["config"]["losses"] == asdict(losses_of(e)), "the loss is not in the key"


@pytest.mark.parametrize(
    ("name", "base", "expected"),
    [
        ("cb", "all", {"head": "linear", "lambda1": 0.0, "lambda2": 0.0}),
        ("cs", "all", {"connection": "none"}),
        ("baseline", "cb", {"connection": "none"}),
        ("i3d-baseline", "i3d-cb", {"connection": "none"}),
        ("i3d-all", "all", {"base": "i3d", "segments": 16, "flow_frames": 1}),
        ("trn-all", "all", {"aggregation": "relations", "segments": 4, "test": "groups"}),
        ("trn-baseline", "baseline", {"aggregation": "relations", "segments": 4, "test": "groups"}),
        ("all@maximum", "all", {"aggregation": "maximum"}),
        ("all@product", "all", {"aggregation": "product", "test": "groups"}),
        ("all@concatenation", "all", {"aggregation": "concatenation", "test": "groups"}),
        ("cb@concatenation", "cb", {"connection": "concatenation"}),
        ("cb@average", "cb", {"connection": "average"}),
        ("all@vgg16", "all", {"backbone": "vgg16"}),
        ("baseline@resnet50", "baseline", {"backbone": "resnet50"}),
        ("all@no-triplet", "all", {"lambda1": 0.0}),
        ("all@no-embedding", "all", {"lambda2": 0.0}),
        ("all@alpha3-1.2", "all", {"alpha3": 1.2}),
        ("all@margins-0.8-0.5-1.2", "all", {"alpha1": 0.8, "alpha2": 0.5, "alpha3": 1.2}),
        ("all@same-clip", "all", {"positive": "same_clip"}),
        ("cb@own", "cb", {"connection": "own"}),
        ("cb@scalar", "cb", {"connection": "scalar"}),
        ("cb@pooled", "cb", {"place": "pooled"}),
    ],
)
def test_a_variant_changes_what_its_name_says(name: str, base: str, expected: dict[str, object]) -> None:
    assert differences(name, base) == expected
    assert losses_of(SMALL[name]) == config_of(SMALL[name]).losses


def test_table_4_is_there_row_by_row() -> None:
    trained = {(x.alpha1, x.alpha2, x.alpha3) for x in map(losses_of, SMALL.values()) if x.lambda1 and x.lambda2}
    rows = {c.row for c in reported("ccs") if c.table == "4"}
    assert {tuple(map(float, row.split(", "))) for row in rows} <= trained
    assert len(rows) == 5
    assert losses_of(SMALL["all"]) == PROPOSED and losses_of(SMALL["cb"]) == CROSS_ENTROPY


# --- at which scale


@pytest.mark.parametrize("name", KNOWN)
def test_all_methods_have_the_same_batches_and_steps(name: str) -> None:
    for dataset in ("motionshapes", "weizmann"):
        recipes = {e.recipe for e in experiments(name, dataset).values() if config_of(e).base == "tsn"}
        assert len(recipes) <= 2, "TSN's, and that of relations"
        for e in experiments(name, dataset).values():
            assert e.recipe.balanced and e.recipe.batch == e.recipe.micro_batch == np.prod(e.recipe.balanced)
            sampling, config = e.sampling, config_of(e)
            assert (config.segments, config.flow_frames) == (sampling.snippets, sampling.flow_frames)
            assert sampling.streams == ("rgb", "flow") and config.streams == "both"


def test_the_published_recipe() -> None:
    def printed(row: str) -> float:
        return number("ccs", "prose 4.1 recipe", row, "value")

    for dataset in ("ucf101", "hmdb51"):
        clips = OFFICIAL[dataset][1]["1"].train
        r = preset("paper", dataset).recipes["tsn"]
        assert (r.lr, r.gamma) == (printed("initial rate"), 1 / printed("rate divided by"))
        assert (r.momentum, r.weight_decay) == (printed("momentum"), printed("weight decay"))
        assert r.iterations * 32 == pytest.approx(printed("epochs at most") * clips, abs=16)
        (drop,) = r.milestones
        assert drop * 32 == pytest.approx(printed("epochs before that") * clips, abs=16)
        assert r.rate(drop - 1) == pytest.approx(1e-3) and r.rate(r.iterations - 1) == pytest.approx(1e-4)
    config = config_of(experiments("paper", "ucf101")["all"])
    assert config == replace(Config(), partial_bn=True) and config.losses.alpha3 == printed("alpha3")
    assert config.segments == number("ccs", "prose 4.2 input", "segments", "Training")
    i3d = experiments("paper", "ucf101")["i3d-all"]
    assert (config_of(i3d).dropout, config_of(i3d).segments, i3d.protocol) == ((0.5, 0.5), 64, "chain64")
    assert not config_of(i3d).partial_bn and i3d.sampling.stride == (1, 1)
    assert config_of(experiments("paper", "ucf101")["trn-all"]).segments == 8
    assert preset("paper", "folder").recipes == preset("paper", "ucf101").recipes


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ReproError, match="unknown preset 'smal'.*small"):
        preset("smal", "motionshapes")


@pytest.mark.parametrize(("name", "classes"), [("live", 10), ("smoke", 2)])
def test_few_clips_of_each_class_make_full_batches(name: str, classes: int) -> None:
    e = experiments(name, "weizmann")["all"]
    assert e.per_class
    clips = thin(make_clips(5 * classes, classes), e.per_class[0])
    labels = [c.label for c in clips]
    batches = list(order_of(labels, e.recipe, seed=1, first=0, last=5))
    n, m = e.recipe.balanced or (0, 0)
    for batch in batches:
        of_class = np.bincount([labels[i] for _, i in batch])
        assert sorted(of_class[of_class > 0]) == [m] * n
        assert len(set(batch)) == len(batch)


# --- the networks


@pytest.mark.parametrize("name", ["trn-baseline", "i3d-cs", "all@concatenation"])
def test_a_network_reads_what_its_sampling_gives(name: str) -> None:
    """In training it gives features exactly where its losses need them; in the test it takes the protocol's clips."""
    e = experiments("smoke", "motionshapes")[name]
    s = e.sampling
    with torch.device("meta"):
        model = e.network(5)
        inputs = {"rgb": 3, "flow": 2 * s.flow_frames}
        out = model.train()(**{m: torch.zeros(2, s.snippets, c, s.crop, s.crop) for m, c in inputs.items()})
        tested = model.eval()(**{m: torch.zeros(1, 8, c, 64, 64) for m, c in inputs.items()})
    wanted = {"rgb", "flow"} | ({"rgb.feature", "flow.feature"} if losses_of(e).needed else set())
    assert out.keys() == wanted and tested.keys() == {"rgb", "flow"}
    assert {x.shape for x in tested.values()} == {(1, 5)}


@pytest.mark.parametrize("name", ["all", "baseline", "trn-all"])
def test_training_minimises_equation_6_on_balanced_batches(name: str) -> None:
    found = experiments("smoke", "toy")[name]
    config = replace(config_of(found), width=0.125)
    e = replace(found, build=partial(network, config, "none"), sampling=replace(found.sampling, crop=32))
    clips = make_clips(6)
    samples = TrainingSamples(FakeStore(), clips, e.sampling, seed=1)
    torch.manual_seed(1)
    model = e.network(2)
    began = {k: v.clone() for k, v in model.state_dict().items()}
    history = train(model, samples, e.recipe, loss=e.loss)
    assert len(history.losses) == 2 and all(np.isfinite(history.losses))
    assert any(not torch.equal(v, began[k]) for k, v in model.state_dict().items())

    # The first loss again: Eq. 6 with its weights, on the first balanced batch.
    torch.manual_seed(1)
    model = e.network(2).train()
    batch = [samples[item] for item in next(iter(order_of(samples.labels, e.recipe, 1, 0, 1)))]
    labels = torch.stack([x["label"] for x in batch])
    assert labels.bincount().tolist() == [2, 2]
    stacked = {k: torch.stack([x[k] for x in batch]) for k in ("rgb", "flow")}
    with torch.no_grad():
        terms = parts(model(**to_network(stacked, torch.device("cpu"), e.sampling)), labels, config.losses)
    expected = config.losses.lambda1 * terms.triplet + config.losses.lambda2 * terms.embedding + terms.cross_entropy
    assert history.losses[0] == pytest.approx(float(expected), rel=1e-4)
    assert (float(expected) > float(terms.cross_entropy)) == config.losses.needed


# --- starting weights


def test_both_streams_start_from_the_weights_of_their_base_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    saved = backbone("bn_inception", width=0.25).state_dict()
    torch.save(saved, tmp_path / "bn_inception.pt")
    found = experiments("smoke", "motionshapes", str(tmp_path))
    e = found["all"]
    assert e.backbone == "bn_inception" and e.weights == e.config["weights"] == str(tmp_path)
    assert config_of(e).partial_bn and not config_of(found["i3d-all"]).partial_bn
    model = e.network(3)
    assert isinstance(model, CCS)
    kernels = {k: v for k, v in saved.items() if v.ndim == 4}
    for m in ("rgb", "flow"):
        own = model.stream(m).trunk.state_dict()
        same = [k for k, v in kernels.items() if own[k].shape == v.shape and torch.equal(own[k], v)]
        assert len(same) == len(kernels) - (m == "flow"), "all but a first kernel for other channels"
    for name, missing in (("all@vgg16", "vgg16"), ("i3d-cb", "googlenet")):
        assert found[name].backbone == missing
        with pytest.raises(ReproError, match=f"missing: {missing}$"):
            found[name].network(3)
    plain = experiments("smoke", "motionshapes", "none")["all"]
    assert plain.backbone == "" and plain.weights == "none"
    assert plain.identity() == experiments("smoke", "motionshapes")["all"].identity()
