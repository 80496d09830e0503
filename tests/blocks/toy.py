"""A kind of block that Weft does not have: a running mean between two maps. All that it takes is in this file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from weft.blocks.base import Block
from weft.config import BlockConfig, MapConfig, Shell
from weft.kinds import BlockSpec, Stretch
from weft.layers.linear import linear
from weft.layers.sites import At
from weft.numbers import Width


class MeanConfig(BlockConfig):
    """A mean over ``inner_size`` features, of which each token keeps ``share``."""

    kind: Literal["mean"] = "mean"
    inner_size: Width
    share: float = 0.5
    maps: MapConfig = MapConfig()

    map_roles: ClassVar[Mapping[str, str]] = {"maps": "mean"}

    @classmethod
    def with_widths(cls, given: Mapping[str, Any], hidden_size: int, parts: int) -> dict[str, Any]:  # noqa: ARG003
        """Three times the model's width."""
        return {"inner_size": 3 * hidden_size, **given}


class MeanState(NamedTuple):
    mean_BC: Tensor


class MeanBlock(Block):
    config: MeanConfig

    def __init__(self, config: MeanConfig, shell: Shell) -> None:
        super().__init__(config, shell)
        self.inner = linear(config.maps, shell.hidden_size, config.inner_size)
        self.output = linear(config.maps, config.inner_size, shell.hidden_size)

    def sites(self) -> dict[str, str]:
        return super().sites() | {"mean": "B, T, C"}

    def mix(
        self, x_BTD: Tensor, state: MeanState | None, reset_BT: Tensor | None, at: At | None = None
    ) -> tuple[Tensor, MeanState]:
        inner_BTC = self.inner(x_BTD).relu()
        mean_BC = torch.zeros_like(inner_BTC[:, 0]) if state is None else state.mean_BC
        means = []
        for time in range(x_BTD.shape[1]):
            if reset_BT is not None:
                mean_BC = mean_BC.masked_fill(reset_BT[:, time, None], 0.0)
            mean_BC = torch.lerp(mean_BC, inner_BTC[:, time], self.config.share)
            means.append(mean_BC)
        means_BTC = torch.stack(means, 1)
        if at is not None:
            at.see("mean", means_BTC)
        return self.output(means_BTC), MeanState(mean_BC)

    def sizes(self) -> str:
        return f"mean of {self.config.inner_size}{self.made_of()}"

    def mixing_flops(self, context: int) -> int:  # noqa: ARG002
        return 3 * self.config.inner_size

    def mixer_state_bytes(self, context: int, itemsize: int) -> int:  # noqa: ARG002
        return itemsize * self.config.inner_size


SPEC = BlockSpec(
    letter="m",
    name="mean",
    title="running mean",
    config=MeanConfig,
    block=MeanBlock,
    stretches=(Stretch(width="inner_size"),),
)
