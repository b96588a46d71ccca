"""Sub-batch normalisation against a loop over its groups, and against nn.BatchNorm2d where they must agree."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from repro.models.resnet import resnet
from repro.models.subbatch import SubBatchNorm2d, group_sizes, use_sub_batches

C = 6


def norms(clips: int, chunks: int = 1, momentum: float | None = 0.1) -> tuple[SubBatchNorm2d, nn.BatchNorm2d]:
    """A sub-batch norm and a plain one with the same random weights and running moments."""
    torch.manual_seed(0)
    ours, plain = SubBatchNorm2d(C, clips, momentum=momentum), nn.BatchNorm2d(C, momentum=momentum)
    for values in (ours.weight, ours.bias, ours.running_mean):
        nn.init.normal_(values)  # type: ignore[arg-type]
    nn.init.uniform_(ours.running_var, 0.5, 2)  # type: ignore[arg-type]
    plain.load_state_dict(ours.state_dict())
    ours.chunks = chunks
    return ours, plain


def maps(images: int) -> Tensor:
    """Images whose levels differ, so that groups have moments of their own."""
    level = torch.arange(images).view(-1, 1, 1, 1)
    return torch.randn(images, C, 3, 4, generator=torch.Generator().manual_seed(1)) * (1 + level) + 2 * level


def slow(norm: SubBatchNorm2d, x: Tensor, sizes: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise group by group and channel by channel; also the mean over the images of the groups' moments."""
    out, mean, var, first = torch.empty_like(x), torch.zeros(C), torch.zeros(C), 0
    for clips in sizes:
        group = slice(first, first := first + clips * norm.chunks)
        for c in range(C):
            values = x[group, c]
            centred = values - values.mean()
            scaled = centred / torch.sqrt((centred**2).mean() + norm.eps)
            out[group, c] = scaled * norm.weight[c] + norm.bias[c]
            share = clips / sum(sizes)
            mean[c] += share * values.mean()
            var[c] += share * (centred**2).sum() / (values.numel() - 1)
    return out, mean, var


@pytest.mark.parametrize(
    ("clips", "chunks", "k", "sizes"),
    [(6, 1, 2, [2, 2, 2]), (5, 3, 2, [2, 2, 1]), (4, 2, 1, [1, 1, 1, 1]), (7, 1, 3, [3, 2, 2])],
)
@torch.no_grad()
def test_equals_a_loop_over_groups(clips: int, chunks: int, k: int, sizes: list[int]) -> None:
    norm, _ = norms(k, chunks)
    x, before = maps(clips * chunks), copy.deepcopy(norm.state_dict())
    expected, mean, var = slow(norm, x, sizes)
    torch.testing.assert_close(norm(x), expected)
    torch.testing.assert_close(norm.running_mean, 0.9 * before["running_mean"] + 0.1 * mean)
    torch.testing.assert_close(norm.running_var, 0.9 * before["running_var"] + 0.1 * var)
    assert norm.num_batches_tracked == 1


@pytest.mark.parametrize("k", [4, 5, 100])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_one_group_is_exactly_batch_norm(k: int, momentum: float | None) -> None:
    ours, plain = norms(k, chunks=2, momentum=momentum)
    x = maps(8)
    for _ in range(2):
        assert torch.equal(ours(x), plain(x))
    assert all(torch.equal(a, b) for a, b in zip(ours.buffers(), plain.buffers(), strict=True))


def test_evaluation_is_exactly_batch_norm() -> None:
    ours, plain = norms(1, chunks=2)
    before = copy.deepcopy(ours.state_dict())
    assert torch.equal(ours.eval()(maps(8)), plain.eval()(maps(8)))
    assert all(torch.equal(value, ours.state_dict()[key]) for key, value in before.items())


def test_groups_matter_and_gradients_stay_within_them() -> None:
    ours, plain = norms(2)
    x = maps(4).requires_grad_()
    y = ours(x)
    assert (y - plain(x)).abs().max() > 0.1
    # A group's outputs must not depend on another group's images.
    (gradient,) = torch.autograd.grad((y[:2] ** 3).sum(), x)
    assert gradient[:2].abs().max() > 0
    assert gradient[2:].abs().max() == 0


def test_gradients_are_those_of_separate_batches() -> None:
    """The batch of the gradient is unchanged: its terms are summed over the groups."""
    ours, plain = norms(2, chunks=2)
    x = maps(8)
    (ours(x) ** 3).mean().backward()
    sum((plain(part) ** 3).sum() for part in x.split(4)).div(x.numel()).backward()  # type: ignore[union-attr]
    torch.testing.assert_close(ours.weight.grad, plain.weight.grad)
    torch.testing.assert_close(ours.bias.grad, plain.bias.grad)


def test_cumulative_running_moments() -> None:
    """Without momentum the running moments are the mean over the passes, as in nn.BatchNorm2d."""
    norm, _ = norms(2, momentum=None)
    x = maps(4)
    means = []
    with torch.no_grad():
        for images in (x, x + 3):
            norm(images)
            means.append(slow(norm, images, [2, 2])[1])
    torch.testing.assert_close(norm.running_mean, torch.stack(means).mean(0))


def test_mixed_precision_keeps_exact_moments() -> None:
    norm, exact = norms(2)[0], norms(2)[0]
    x = maps(6).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert norm(x).dtype == torch.bfloat16
    exact(x.float())
    assert norm.running_mean.dtype == torch.float32  # type: ignore[union-attr]
    torch.testing.assert_close(norm.state_dict(), exact.state_dict())


def test_group_sizes() -> None:
    assert group_sizes(256, 86) == [86, 85, 85]  # Table 2, motion stream; ledger st_resnet-L12
    assert group_sizes(128, 4) == [4] * 32
    assert group_sizes(3, 8) == [3]
    assert all(sum(group_sizes(n, k)) == n and max(group_sizes(n, k)) <= k for n in range(1, 30) for k in range(1, 12))


def test_a_network_keeps_its_keys_weights_and_modes() -> None:
    torch.manual_seed(0)
    plain = resnet("resnet50", width=0.125)
    plain.get_submodule("bn1").eval()
    ours = copy.deepcopy(plain)
    use_sub_batches(ours, 2)
    replaced = [m for m in ours.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(replaced) == 53 and all(isinstance(m, SubBatchNorm2d) and m.clips == 2 for m in replaced)
    assert [m.training for m in replaced].count(False) == 1 and not ours.get_submodule("bn1").training
    assert all(torch.equal(a, ours.state_dict()[key]) for key, a in plain.state_dict().items())
    assert list(ours.state_dict()) == list(plain.state_dict())
    x = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(ours.eval()(x), plain.eval()(x))
