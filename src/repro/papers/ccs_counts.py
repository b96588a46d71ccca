"""What the networks of CCS (Zhang et al., 2019) cost: Sec. 4.3, "additional parameters" (claim ccs-16)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from repro.models.count import multiply_adds, parameters
from repro.papers.ccs import BASES, METHODS, TRN, Config, build
from repro.papers.ccs_block import ConnectionBlock


class Count(NamedTuple):
    """What one pair of streams has. `multiply_adds` are those of one training clip, the block's products among them."""

    network: str
    parameters: int
    multiply_adds: int
    block: int  # parameters of the connection block
    heads: int  # parameters behind it: shared block or classifiers, and relations
    entry: str  # the claim or ledger entry that it answers

    @property
    def added(self) -> float:
        """The block's and the heads' share of what the two trunks have."""
        return (self.block + self.heads) / (self.parameters - self.block - self.heads)


# Name -> what differs from the proposed network, and the entry that it answers.
NETWORKS: dict[str, tuple[dict[str, Any], str]] = {
    **{f"TSN, {name}": (BASES["tsn"] | method, "ccs-16") for name, method in METHODS.items()},
    **{f"I3D, {name}": (BASES["i3d"] | method, "ccs-16") for name, method in METHODS.items()},
    "TSN, All, W of embedded values": ({"values": "embedded"}, "ccs-L5"),
    "TSN, All, block after the pool": ({"place": "pooled"}, "ccs-L6"),
    "TSN, concatenation for the block": (METHODS["CB"] | {"connection": "concatenation"}, "ccs-L34"),
    "TSN, average for the block": (METHODS["CB"] | {"connection": "average"}, "ccs-L34"),
    "TSN + TRN": (METHODS["baseline"] | TRN, "ccs-L33"),
    "TSN + TRN, All": (TRN, "ccs-L33"),
    "TSN, All, VGG-16": ({"backbone": "vgg16"}, "ccs-L32"),
    "TSN, All, ResNet-50": ({"backbone": "resnet50"}, "ccs-L32"),
}


def counts(num_classes: int = 101, size: int = 224, width: float = 1.0) -> list[Count]:
    """Count the networks of Tables 2 and 3 and Figure 5b on one clip as in training: 3 snippets, 8 for TRN, 64 frames.

    TRN's multiply-adds are those of testing, where all tuples are read.
    """
    return [
        count(name, Config(**changes, width=width), num_classes, size, entry)
        for name, (changes, entry) in NETWORKS.items()
    ]


def count(name: str, config: Config, num_classes: int, size: int, entry: str = "") -> Count:
    """Count one network on one clip of `config.segments` snippets or frames of `size` px, without arithmetic."""
    between: list[int] = []  # multiply-adds of Eq. 2 and 3 between positions, which are in no layer
    with torch.device("meta"):
        model = build(config, num_classes)
        block = model.block
        if isinstance(block, ConnectionBlock):
            block.register_forward_pre_hook(lambda _, maps: between.append(block.products(maps[0][0, 0].numel())))
        rgb, flow = (torch.zeros(1, config.segments, c, size, size) for c in (3, 2 * config.flow_frames))
        work = multiply_adds(model, rgb, flow) + sum(between)
    heads = sum(parameters(part) for part in (model.linear, model.relations, model.shared) if part is not None)
    return Count(name, parameters(model), work, 0 if block is None else parameters(block), heads, entry)
