"""Sub-batch normalisation (Feichtenhofer et al., NIPS 2016, Sec. 3.3): moments over a few clips, gradients over many.

B clips of T chunks arrive as B*T images, clip by clip. The moments are those of groups of clips with all their chunks,
as in the authors' code (ledger st_resnet-L13).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def group_sizes(clips: int, k: int) -> list[int]:
    """Split `clips` into the fewest groups of at most `k`, as equal as possible, larger ones first.

    256 clips in groups of 86 are 86 + 85 + 85 (ledger st_resnet-L12).
    """
    groups = -(-clips // k)
    return [clips // groups + (i < clips % groups) for i in range(groups)]


class SubBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation whose moments in training come from groups of at most `clips` clips.

    Exactly nn.BatchNorm2d in evaluation mode and where one group holds the batch. The running statistics move once per
    pass, towards the mean over the groups of their means and (unbiased) variances, weighted by size: what the groups
    were normalised with, on average. `chunks` says how many images a clip has; the network sets it in each pass.
    """

    chunks: int = 1

    def __init__(self, features: int, clips: int, *, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__(features, eps=eps, momentum=momentum)
        self.clips = clips

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (B*T, C, h, w)."""
        sizes = group_sizes(len(x) // self.chunks, self.clips)
        if not self.training or len(sizes) == 1:
            return super().forward(x)
        assert self.running_mean is not None
        means = self.running_mean.new_zeros(len(sizes), self.num_features)
        variances = torch.zeros_like(means)
        parts = torch.split(x, [size * self.chunks for size in sizes])
        # With momentum 1 the function writes a group's own moments into its rows.
        normalised = [
            F.batch_norm(part, mean, variance, self.weight, self.bias, training=True, momentum=1.0, eps=self.eps)
            for part, mean, variance in zip(parts, means, variances, strict=True)
        ]
        self._follow(means, variances, means.new_tensor(sizes) / sum(sizes))
        return torch.cat(normalised)

    @torch.no_grad()
    def _follow(self, means: Tensor, variances: Tensor, share: Tensor) -> None:
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        step = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        for running, moments in ((self.running_mean, means), (self.running_var, variances)):
            assert running is not None
            running.lerp_((share.unsqueeze(1) * moments).sum(0), step)  # no product that autocast would round


def use_sub_batches(module: nn.Module, clips: int) -> None:
    """Replace every nn.BatchNorm2d inside `module` by a SubBatchNorm2d with its weights; state_dict keys stay."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            norm = SubBatchNorm2d(child.num_features, clips, eps=child.eps, momentum=child.momentum)
            norm.weight, norm.bias = child.weight, child.bias
            norm.running_mean, norm.running_var = child.running_mean, child.running_var
            norm.num_batches_tracked = child.num_batches_tracked
            setattr(module, name, norm.train(child.training))
        else:
            use_sub_batches(child, clips)
