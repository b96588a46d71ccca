"""Runs that start from a trained network of the comparison, on noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import noise_lab

from repro.data.clips import TestSamples
from repro.evaluation import evaluate, protocol
from repro.experiments import Experiment, Lab
from repro.papers.ccs_derived import foreign_to, partners
from repro.papers.comparison_derived import OTHER_VIEWS, Backwards, derive
from repro.papers.comparison_experiments import JOINT, OUTPUTS, VARIANTS, experiments
from repro.training import to_network

SMOKE = experiments("smoke", "toy")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return noise_lab(tmp_path_factory.mktemp("lab"), 8, tested_from=6)


def quick(name: str) -> Experiment:
    return replace(SMOKE[name], sampling=replace(SMOKE[name].sampling, crop=32))


@pytest.mark.parametrize("name", ["flow", "ccs"])
def test_another_protocol(lab: Lab, name: str) -> None:
    experiment = quick(name)
    views = derive(lab, experiment, 1)[0]
    model, testing = lab.network(experiment, 1), lab.clips(experiment)[1]
    again = evaluate(model, lab.store, testing, experiment.sampling, protocol(OTHER_VIEWS))
    assert views.row["experiment"] == f"{name}+views" and views.row["outputs"] == sorted(OUTPUTS[name].values())
    for output, logits in again.items():
        assert np.allclose(views.logits(output), logits, atol=2e-2)
    assert protocol(OTHER_VIEWS) != protocol(experiment.protocol)


def test_the_other_input_is_another_clip_s(lab: Lab) -> None:
    """One clip at a time, by hand."""
    experiment = quick("st-resnet")
    probes = derive(lab, experiment, 1)[1]
    model, testing = lab.network(experiment, 1).eval(), lab.clips(experiment)[1]
    samples = TestSamples(lab.store, testing, experiment.sampling, protocol(experiment.protocol))
    given = [to_network(samples[i], torch.device("cpu"), experiment.sampling) for i in range(len(testing))]
    for stream, other, output in (("rgb", "flow", "appearance"), ("flow", "rgb", "motion")):
        lent = partners(testing, foreign_to(lab.dataset, other))
        for i, partner in enumerate(lent):
            assert partner.label != testing[i].label
            with torch.no_grad():
                mixed = model(**{stream: given[i][stream], other: given[testing.index(partner)][other]})
            assert np.allclose(probes.arrays[f"swapped_{stream}"][i], mixed[output][0], atol=2e-2)
        with torch.no_grad():
            back = model(**{name: x.flip(1) for name, x in given[0].items() if x is not None})
        assert np.allclose(probes.arrays[f"reversed_{stream}"][0], back[output][0], atol=2e-2)


def test_backwards_turns_both_inputs() -> None:
    class First(torch.nn.Module):
        def forward(self, rgb: torch.Tensor, flow: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"rgb": rgb[:, 0], "flow": flow[:, 0]}

    rgb, flow = torch.arange(3.0)[None], torch.arange(10.0, 13.0)[None]
    assert Backwards(First())(rgb, flow) == {"rgb": torch.tensor([2.0]), "flow": torch.tensor([12.0])}


def test_which_runs_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    from repro.papers import comparison_derived

    for what in ("views", "probes"):
        monkeypatch.setattr(comparison_derived, what, lambda lab, experiment, seed, w=what: w)
    made = {name: derive(None, SMOKE[name], 1) for name in VARIANTS}  # type: ignore[arg-type]
    assert made == {name: ["views", "probes"] if name in JOINT else ["views"] for name in VARIANTS}
