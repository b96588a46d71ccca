"""Multi-scale temporal relations against a slow loop over tuples of snippets."""

from __future__ import annotations

from itertools import combinations
from math import comb

import pytest
import torch
from torch import Tensor

from repro.errors import ReproError
from repro.models.count import parameters
from repro.models.trn import Relations, ordered_tuples


def relations(frames: int = 5, tuples: int = 3) -> Relations:
    torch.manual_seed(0)
    return Relations(6, frames, 4, feature=3, hidden=7, tuples=tuples).double()


def one_tuple(model: Relations, x: Tensor, members: tuple[int, ...]) -> Tensor:
    """h(g(f_i, f_j, ...)) for one clip x (N, C): (outputs,)."""
    scale = len(members) - 2
    f = [torch.relu(model.project(x[i])) for i in members]
    return model.h[scale](torch.relu(model.g[scale](torch.cat(f))))  # type: ignore[no-any-return]


@pytest.mark.parametrize(("frames", "tuples"), [(2, 3), (3, 1), (5, 3), (5, 100)])
def test_evaluation_is_the_expected_sum_over_tuples(frames: int, tuples: int) -> None:
    model = relations(frames, tuples).eval()
    x = torch.randn(2, frames, 6, dtype=torch.float64)
    with torch.no_grad():
        found = model(x)
        for clip in range(2):
            slow = torch.zeros(4, dtype=torch.float64)
            for d in range(2, frames + 1):
                every = [one_tuple(model, x[clip], members) for members in combinations(range(frames), d)]
                slow += min(tuples, len(every)) * sum(every) / len(every)
            torch.testing.assert_close(found[clip], slow)


@torch.no_grad()
def test_training_sums_tuples_drawn_without_repetition() -> None:
    """Whatever is drawn, T_d is the sum of 3 different tuples of the scale (of all, where there are fewer)."""
    model = relations().train()
    f = torch.relu(model.project(torch.randn(1, 5, 6, dtype=torch.float64)))
    for d in model.scales:
        every = torch.stack([
            model.h[d - 2](torch.relu(model.g[d - 2](f[0, list(t)].flatten()))) for t in combinations(range(5), d)
        ])  # fmt: skip
        possible = torch.stack([every[list(c)].sum(0) for c in combinations(range(len(every)), min(3, len(every)))])
        seen = set()
        for _ in range(6):
            away = (possible - model.relation(f, d)).abs().amax(dim=1)
            assert float(away.min()) < 1e-12
            seen.add(int(away.argmin()))
        assert (len(seen) > 1) == (len(possible) > 1)


def test_mean_of_many_trainings_is_the_evaluation() -> None:
    model = relations()
    x = torch.randn(1, 5, 6, dtype=torch.float64)
    with torch.no_grad():
        draws = torch.stack([model.train()(x) for _ in range(200)])
        error = (draws.mean(0) - model.eval()(x)).abs()
        assert (error < 5 * draws.std(0) / 200**0.5 + 1e-12).all()
        assert (draws.std(0) > 0).all()


def test_draws_come_from_torchs_generator_so_that_a_resumed_run_repeats_them() -> None:
    model, x = relations().train(), torch.randn(1, 5, 6, dtype=torch.float64)
    state = torch.get_rng_state()
    first = [model(x) for _ in range(3)]
    torch.set_rng_state(state)
    for before in first:
        torch.testing.assert_close(model(x), before, rtol=0, atol=0)


def test_order_in_time_matters_and_evaluation_repeats() -> None:
    model, x = relations().eval(), torch.randn(2, 5, 6, dtype=torch.float64)
    assert torch.equal(model(x), model(x))
    assert (model(x) - model(x.flip(1))).abs().max() > 1e-3


def test_tuples_are_ordered_and_complete() -> None:
    for frames, size in ((8, 2), (8, 4), (3, 3)):
        found = ordered_tuples(frames, size)
        assert found.shape == (comb(frames, size), size)
        assert (found.diff(dim=1) > 0).all()
        assert len({tuple(row) for row in found.tolist()}) == len(found)


def test_parameters_of_the_released_size() -> None:
    with torch.device("meta"):
        model = Relations(1024, 8, 174)
    layers = sum(d * 256 * 256 + 256 + 256 * 174 + 174 for d in range(2, 9))
    assert parameters(model) == 1024 * 256 + 256 + layers


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(ReproError, match="relations of 1 snippets"):
        Relations(4, 1, 2)
    with pytest.raises(ReproError, match="4 snippets where the relations were made for 5: give as many"):
        relations()(torch.zeros(1, 4, 6, dtype=torch.float64))
