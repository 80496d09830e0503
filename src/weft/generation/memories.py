"""What each kind of block remembers, laid out for the kernel that reads one token at a time.

A memory takes the model's state in and gives it back. A ring's slots are taken in turn,
so nothing is ever moved.
Shapes: B texts, D model width, C cell width, G key-value heads, K head width, M remembered positions, S
slots of a ring (M + 1), W = kernel size - 1 inputs that a QRNN remembers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from weft.blocks import AttentionBlock, QRNNBlock
from weft.blocks.qrnn import QRNNState
from weft.layers.positions import rotate
from weft.layers.state import NoState
from weft.layers.token_shift import ShiftedState
from weft.layers.window_attention import AttentionState
from weft.ops.cpu.constants import VECTOR


class Ring:
    """The keys and values of one attention block.

    Keys are rotated by their places in the text, as only differences of places count.
    """

    def __init__(self, block: AttentionBlock, state: AttentionState, place: int, seen_B: Tensor) -> None:
        self.config = block.config
        self.window = block.window
        self.slots = self.window + 1
        shape = (len(state.valid_BM), self.config.kv_heads, self.slots, up(self.config.head_dim))
        self.keys_BGSK = torch.zeros(shape)
        self.values_BGSK = torch.zeros(shape)
        self.seen_B = seen_B.copy_(state.valid_BM.sum(1))
        places = torch.arange(place - state.valid_BM.shape[1], place)
        self._put(self.keys_BGSK, places, self._turned(state.keys_BMGK, places, 1))
        self._put(self.values_BGSK, places, state.values_BMGK)

    def _put(self, ring_BGSK: Tensor, places: Tensor, x_BMGK: Tensor) -> None:
        ring_BGSK[:, :, places % self.slots, : self.config.head_dim] = x_BMGK.transpose(1, 2)

    def _taken(self, ring_BGSK: Tensor, places: Tensor) -> Tensor:
        return ring_BGSK[:, :, places % self.slots, : self.config.head_dim].transpose(1, 2).contiguous()

    def _turned(self, keys_BMGK: Tensor, places: Tensor, sign: int) -> Tensor:
        """Turn the keys by their places, or with ``sign`` -1 back."""
        if self.config.positions != "rotary":
            return keys_BMGK
        angles = places[:, None].double() * frequencies(self.config.head_dim)
        return rotate(keys_BMGK, angles.cos().float(), sign * angles.sin().float())

    def state(self, place: int) -> AttentionState:
        """Return what the model would remember at ``place``."""
        length = min(place, self.window)
        places = torch.arange(place - length, place)
        keys_BMGK = self._turned(self._taken(self.keys_BGSK, places), places, -1)
        values_BMGK = self._taken(self.values_BGSK, places)
        valid_BM = torch.arange(length) >= length - self.seen_B[:, None]
        return AttentionState(keys_BMGK, values_BMGK, valid_BM)


class Cells:
    """The cells of one QRNN block, and its last inputs in a ring."""

    def __init__(self, block: QRNNBlock, state: QRNNState, place: int) -> None:
        rows, self.cells = state.cell_BC.shape
        self.kernel_size = block.kernel_size
        self.cell_BC = torch.zeros(rows, up(self.cells))
        self.inputs_BWD = torch.zeros(rows, self.kernel_size, block.input_size)
        self.cell_BC[:, : self.cells] = state.cell_BC
        self.inputs_BWD[:, self._slots(place)] = state.inputs_BWD

    def _slots(self, place: int) -> Tensor:
        return torch.arange(place - self.kernel_size + 1, place) % self.kernel_size

    def state(self, place: int) -> QRNNState:
        """Return what the model would remember at ``place``."""
        return QRNNState(self.cell_BC[:, : self.cells].clone(), self.inputs_BWD[:, self._slots(place)])


class Nothing:
    """What a feed-forward block remembers."""

    def state(self, place: int) -> NoState:  # noqa: ARG002
        """Return an empty state."""
        return NoState()


class Last:
    """What the mixer of a block with token shift remembers, and the block's last input.

    Inputs stand in a ring of two: a thread writes the one of its channels while another
    still reads the one before.
    """

    def __init__(self, mixer: Memory, share: Tensor, state: ShiftedState, place: int) -> None:
        rows, width = state.last_BD.shape
        self.mixer = mixer
        self.share = share
        self.inputs_B2D = torch.zeros(rows, 2, width)
        self.inputs_B2D[:, (place - 1) % 2] = state.last_BD

    def state(self, place: int) -> ShiftedState:
        """Return what the model would remember at ``place``."""
        return ShiftedState(self.mixer.state(place), self.inputs_B2D[:, (place - 1) % 2].clone())


Memory = Ring | Cells | Nothing


def remembered(state: Any) -> int:
    """Return how many positions the longest attention memory of a state has, 0 where there are none."""
    if isinstance(state, AttentionState):
        return state.valid_BM.shape[1]
    if isinstance(state, Tensor):
        return 0
    return max(map(remembered, state), default=0)


def frequencies(head_dim: int) -> Tensor:
    """Return the rotary frequencies, float64; see :func:`weft.layers.positions.rotary_tables`."""
    return 10000.0 ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)


def up(size: int) -> int:
    """Round up to what the kernel works on at once."""
    return -(-size // VECTOR) * VECTOR
