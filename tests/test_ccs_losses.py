"""The losses of CCS against naive loops: values, gradients, and the batches where something is missing or equal."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from repro.errors import ReproError
from repro.papers.ccs_losses import (
    CROSS_ENTROPY,
    PROPOSED,
    Losses,
    between_terms,
    class_means,
    distances,
    embedding_loss,
    parts,
    prepared,
    total_loss,
    triplet_loss,
    triplet_terms,
    unit,
    within_terms,
)

LABELS = torch.tensor([2, 0, 2, 5, 0, 2, 7])  # class 5 and class 7 have one clip each
Vector = list[float]


def features(seed: int = 0, clips: int = 7, width: int = 5, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z_f, z_o = scale * torch.randn(2, clips, width, generator=generator, dtype=torch.float64)
    return z_f, z_o


# --- slow versions, from the equations as they are printed


def slow_distance(a: Vector, b: Vector, how: str) -> float:
    squared = sum((x - y) ** 2 for x, y in zip(a, b, strict=True))
    return squared if how == "squared" else math.sqrt(squared)


def slow_mean(terms: list[float], how: str) -> float:
    return sum(terms) if how == "sum" or not terms else sum(terms) / len(terms)


def slow_triplet(z_f: Tensor, z_o: Tensor, labels: Tensor, losses: Losses) -> float:
    classes, total = labels.tolist(), 0.0
    for anchors, others in ((z_f.tolist(), z_o.tolist()), (z_o.tolist(), z_f.tolist())):
        terms = []
        for i, anchor in enumerate(anchors):
            positives, negatives = [], []
            for j, other in enumerate(others):
                (positives if classes[i] == classes[j] else negatives).append(
                    slow_distance(anchor, other, losses.distance)
                )
            if not negatives:
                continue
            one = slow_distance(anchor, others[i], losses.distance)
            positive = max(positives) if losses.positive == "farthest" else one
            terms.append(max(0.0, positive - min(negatives) + losses.alpha1))
        total += slow_mean(terms, losses.reduction)
    return total


def slow_embedding(z_f: Tensor, z_o: Tensor, labels: Tensor, losses: Losses) -> float:
    classes, total = labels.tolist(), 0.0
    for z in (z_f.tolist(), z_o.tolist()):
        means = {}
        for c in set(classes):
            members = [x for x, own in zip(z, classes, strict=True) if own == c]
            means[c] = [sum(column) / len(members) for column in zip(*members, strict=True)]
        within = [
            max(0.0, slow_distance(x, means[c], losses.distance) - losses.alpha2)
            for x, c in zip(z, classes, strict=True)
        ]
        names = sorted(means)
        between = [
            max(0.0, losses.alpha3 - slow_distance(means[a], means[b], losses.distance))
            for a in names
            for b in names
            if a < b
        ]
        total += slow_mean(within, losses.reduction) + slow_mean(between, losses.reduction)
    return total


@pytest.mark.parametrize(
    ("distance", "positive", "reduction"),
    list(product(("squared", "plain"), ("farthest", "same_clip"), ("mean", "sum"))),
)
def test_equations_4_and_5_equal_naive_loops(distance: str, positive: str, reduction: str) -> None:
    losses = Losses(distance=distance, positive=positive, reduction=reduction)
    for seed, scale in ((0, 0.3), (1, 1.0)):  # at 0.3 class means are nearer than alpha3
        z_f, z_o = features(seed, scale=scale)
        for a, b in ((z_f, z_o), (unit(z_f), unit(z_o))):
            expected = slow_triplet(a, b, LABELS, losses)
            assert float(triplet_loss(a, b, LABELS, losses)) == pytest.approx(expected, abs=1e-12)
            assert expected > 0
            expected = slow_embedding(a, b, LABELS, losses)
            assert float(embedding_loss(a, b, LABELS, losses)) == pytest.approx(expected, abs=1e-12)
            assert expected > 0


@pytest.mark.parametrize("distance", ["squared", "plain"])
@pytest.mark.parametrize("positive", ["farthest", "same_clip"])
def test_gradients_are_those_of_differences(distance: str, positive: str) -> None:
    losses = Losses(distance=distance, positive=positive, alpha3=2.5)  # large enough that pairs of means count

    def loss(term: object, a: Tensor, b: Tensor) -> Tensor:
        return term(prepared(a, losses), prepared(b, losses), LABELS[:5], losses)  # type: ignore[operator, no-any-return]

    for term in (triplet_loss, embedding_loss):
        z_f, z_o = (z.requires_grad_() for z in features(3, clips=5, width=3))
        assert torch.autograd.gradcheck(partial(loss, term), (z_f, z_o))
        value = loss(term, z_f, z_o)
        for gradient in torch.autograd.grad(value, (z_f, z_o)):
            assert gradient.abs().sum() > 0


def test_the_hardest_negative_is_the_nearest_of_another_class() -> None:
    labels = torch.tensor([0, 0, 1, 2])
    f = torch.tensor([[0.0], [0.0], [0.0], [0.0]])
    o = torch.tensor([[0.5], [-1.0], [0.25], [3.0]])
    terms = triplet_terms(f, o, labels, PROPOSED)
    # Anchors 0 and 1: farthest positive 1.0, nearest negative .0625. Anchor 2: own .0625, nearest .25. Anchor 3: own 9.
    torch.testing.assert_close(terms, torch.tensor([1.2375, 1.2375, 0.1125, 9.0 - 0.0625 + 0.3]))
    same_clip = triplet_terms(f, o, labels, replace(PROPOSED, positive="same_clip"))
    torch.testing.assert_close(same_clip, torch.tensor([0.25 - 0.0625 + 0.3, 1.2375, 0.1125, 9.2375]))


def test_only_the_hardest_pairs_get_gradient_and_ties_share_it() -> None:
    labels = torch.tensor([0, 1, 1, 1])
    f = torch.zeros(4, 1, dtype=torch.float64)
    o = torch.tensor([[1.0], [0.5], [-0.5], [2.0]], dtype=torch.float64, requires_grad=True)
    term = triplet_terms(f, o, labels, PROPOSED)[0]  # the two at distance .5 are equally near
    assert float(term.detach()) == pytest.approx(1.0 - 0.25 + 0.3)
    (gradient,) = torch.autograd.grad(term, o)
    torch.testing.assert_close(gradient[:, 0], torch.tensor([2.0, -0.5, 0.5, 0.0], dtype=torch.float64))


def test_a_batch_of_one_class_has_no_negatives_and_no_pairs() -> None:
    z_f, z_o = (z.requires_grad_() for z in features(scale=3.0))
    labels = torch.full((7,), 4)
    assert triplet_terms(z_f, z_o, labels, PROPOSED).shape == (0,)
    assert between_terms(z_f, labels, PROPOSED).shape == (0,)
    for reduction in ("mean", "sum"):
        losses = replace(PROPOSED, reduction=reduction)
        assert float(triplet_loss(z_f, z_o, labels, losses).detach()) == 0
        value = embedding_loss(z_f, z_o, labels, losses)
        assert float(value.detach()) == pytest.approx(slow_embedding(z_f, z_o, labels, losses))
        assert all(g.isfinite().all() for g in torch.autograd.grad(value, (z_f, z_o)))
    outputs = {"rgb": torch.zeros(7, 5), "flow": torch.zeros(7, 5), "rgb.feature": z_f, "flow.feature": z_o}
    total = total_loss(outputs, labels, PROPOSED)  # Eq. 4 has no terms at all: the rest still has a gradient
    assert all(g.isfinite().all() for g in torch.autograd.grad(total, (z_f, z_o)))


def test_a_class_of_one_clip_is_its_own_mean_and_its_own_positive() -> None:
    z_f, z_o = features()
    means, index = class_means(z_f, LABELS)
    torch.testing.assert_close(means[index[3]], z_f[3])
    assert float(within_terms(z_f, LABELS, PROPOSED)[3]) == 0
    everyone = torch.arange(7)  # each clip a class
    assert not within_terms(z_f, everyone, PROPOSED).any()
    assert len(between_terms(z_f, everyone, PROPOSED)) == 21
    for positive in ("farthest", "same_clip"):  # the same, where a class has one clip
        terms = triplet_terms(z_f, z_o, everyone, replace(PROPOSED, positive=positive))
        torch.testing.assert_close(terms, triplet_terms(z_f, z_o, everyone, PROPOSED))


@pytest.mark.parametrize("distance", ["squared", "plain"])
def test_identical_features_cost_the_margins_and_have_finite_gradients(distance: str) -> None:
    losses = Losses(distance=distance)
    z_f, z_o = (torch.ones(7, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    l1 = triplet_loss(prepared(z_f, losses), prepared(z_o, losses), LABELS, losses)
    l2 = embedding_loss(prepared(z_f, losses), prepared(z_o, losses), LABELS, losses)
    assert float(l1.detach()) == pytest.approx(2 * 0.3)
    assert float(l2.detach()) == pytest.approx(2 * 0.8)
    for gradient in torch.autograd.grad(l1 + l2, (z_f, z_o)):
        assert gradient.isfinite().all()
        assert gradient.abs().max() < 1e-9


def test_satisfied_margins_cost_nothing() -> None:
    corners = 2 * torch.eye(4, dtype=torch.float64)  # distances of 8 between classes, 0 within
    z = corners[[0, 0, 1, 1, 2, 3]]
    labels = torch.tensor([0, 0, 1, 1, 2, 3])
    assert float(triplet_loss(z, z, labels, PROPOSED)) == 0
    assert float(embedding_loss(z, z, labels, PROPOSED)) == 0
    assert float(triplet_loss(z, z, labels, replace(PROPOSED, alpha1=9.0))) == pytest.approx(2 * (9 - 8))


def test_losses_do_not_depend_on_the_order_of_clips_names_of_classes_or_modalities() -> None:
    z_f, z_o = features()
    order = torch.tensor([3, 0, 6, 2, 5, 1, 4])
    for term in (triplet_loss, embedding_loss):
        value = term(z_f, z_o, LABELS, PROPOSED)
        torch.testing.assert_close(term(z_f[order], z_o[order], LABELS[order], PROPOSED), value)
        torch.testing.assert_close(term(z_o, z_f, LABELS, PROPOSED), value)
        torch.testing.assert_close(term(z_f, z_o, 100 - LABELS, PROPOSED), value)
    swapped = torch.cat((z_o[:1], z_o[1:].flip(0)))  # other partners, other classes: Eq. 4 sees it
    assert abs(float(triplet_loss(z_f, swapped, LABELS, PROPOSED) - triplet_loss(z_f, z_o, LABELS, PROPOSED))) > 1e-3


def test_means_make_the_losses_independent_of_how_often_a_batch_is_repeated() -> None:
    z_f, z_o = features()
    twice = (torch.cat((z_f, z_f)), torch.cat((z_o, z_o)), LABELS.repeat(2))
    for term in (triplet_loss, embedding_loss):
        value = term(z_f, z_o, LABELS, PROPOSED)
        torch.testing.assert_close(term(*twice, PROPOSED), value)
    summed = replace(PROPOSED, reduction="sum")
    torch.testing.assert_close(triplet_loss(*twice, summed), 2 * triplet_loss(z_f, z_o, LABELS, summed))


# --- features and distances


def test_features_get_unit_length_so_that_their_scale_does_not_matter() -> None:
    z_f, z_o = features()
    torch.testing.assert_close(unit(z_f).norm(dim=1), torch.ones(7, dtype=torch.float64))
    assert not unit(torch.zeros(2, 3)).any()
    outputs = {"rgb": torch.zeros(7, 8), "flow": torch.zeros(7, 8), "rgb.feature": z_f, "flow.feature": z_o}
    larger = outputs | {"rgb.feature": 30 * z_f, "flow.feature": 30 * z_o}
    torch.testing.assert_close(total_loss(outputs, LABELS, PROPOSED), total_loss(larger, LABELS, PROPOSED))
    raw = Losses(features="raw")
    assert float(total_loss(larger, LABELS, raw)) > 10 * float(total_loss(outputs, LABELS, raw))


def test_losses_are_computed_in_full_precision() -> None:
    z = torch.randn(4, 8, dtype=torch.bfloat16)
    assert prepared(z, PROPOSED).dtype == torch.float32
    assert prepared(z.double(), PROPOSED).dtype == torch.float64


def test_distances_equal_torchs() -> None:
    a, b = torch.randn(3, 6, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    torch.testing.assert_close(distances(a, b, "plain"), torch.cdist(a, b))
    torch.testing.assert_close(distances(a, b), torch.cdist(a, b).square())
    assert not distances(a, a, "plain").diagonal().any()


# --- Eq. 6


def test_equation_6_weighs_its_parts() -> None:
    torch.manual_seed(0)
    z_f, z_o = features()
    rgb, flow = torch.randn(2, 7, 8)
    outputs = {"rgb": rgb, "flow": flow, "rgb.feature": z_f, "flow.feature": z_o}
    found = parts(outputs, LABELS, PROPOSED)
    assert float(found.triplet) == pytest.approx(slow_triplet(unit(z_f), unit(z_o), LABELS, PROPOSED))
    assert float(found.embedding) == pytest.approx(slow_embedding(unit(z_f), unit(z_o), LABELS, PROPOSED))
    torch.testing.assert_close(found.cross_entropy, F.cross_entropy(rgb, LABELS) + F.cross_entropy(flow, LABELS))
    for l1, l2 in ((0.5, 0.5), (2.0, 0.0), (0.0, 3.0)):
        losses = Losses(lambda1=l1, lambda2=l2)
        expected = l1 * found.triplet + l2 * found.embedding + found.cross_entropy
        torch.testing.assert_close(total_loss(outputs, LABELS, losses), expected)
    assert (PROPOSED.lambda1, PROPOSED.lambda2) == (0.5, 0.5)
    assert (PROPOSED.alpha1, PROPOSED.alpha2, PROPOSED.alpha3) == (0.3, 0.3, 0.8)


def test_without_lambdas_it_is_the_cross_entropy_and_needs_no_features() -> None:
    outputs = {"rgb": torch.randn(7, 8)}
    assert not CROSS_ENTROPY.needed
    torch.testing.assert_close(total_loss(outputs, LABELS, CROSS_ENTROPY), F.cross_entropy(outputs["rgb"], LABELS))
    with pytest.raises(ReproError, match="no rgb.feature and flow.feature for Eq. 4 and 5"):
        total_loss(outputs, LABELS, PROPOSED)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"distance": "squard"}, "distance 'squard' .did you mean 'squared'"),
        ({"positive": "nearest"}, "positive 'nearest'"),
        ({"features": "l2"}, "features 'l2'"),
        ({"reduction": "max"}, "reduction 'max'"),
        ({"alpha2": -0.1}, "alpha2=-0.1"),
        ({"lambda1": float("nan")}, "lambda1=nan"),
    ],
)
def test_wrong_losses_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ReproError, match=message):
        Losses(**wrong)  # type: ignore[arg-type]
