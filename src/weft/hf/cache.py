"""The explicit state of the model as the cache that transformers passes around.

Transformers' own cache layers for recurrent and sliding layers do not serve: they write in place
into tensors that may belong to an earlier graph, and have no room for the mark of which
remembered keys are of the current document.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import GenerationMixin
from transformers.cache_utils import Cache

from weft.errors import UserError
from weft.layers.state import Structure, build_state, detach, map_state, structure, tensors
from weft.model import ModelState

# What the installed transformers calls the cache, in the arguments that ``generate`` passes and in outputs:
# ``past_key_values`` up to 5.23, ``cache`` since 5.24. The adapter is told it by either name.
_GENERATES_WITH = inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
CACHE_NAME = "cache" if "cache" in _GENERATES_WITH else "past_key_values"


class WeftCache(Cache):
    """Everything the model remembers of a batch: one state for each block application, and how many tokens it read.

    The tensors are never written to: reading more, reordering or selecting rows puts other tensors in
    their place, so a shallow copy of a cache stays what it was. Their size does not grow with the
    text beyond the attention's windows.

    They are kept as a list beside their structure, not as the NamedTuples that a model takes, since
    transformers' exporters, which give a graph the tensors of a cache, take no NamedTuple apart.
    """

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.tensors: list[Tensor] = []
        self._structure: Structure | None = None
        self.seen = 0

    @property
    def state(self) -> ModelState | None:
        """What the model takes and returns; None before anything was read."""
        if self._structure is None:
            return None
        state: ModelState = build_state(self._structure, iter(self.tensors))
        return state

    @state.setter
    def state(self, state: ModelState | None) -> None:
        if state is None:
            self.tensors = []
            self._structure = None
        else:
            self.tensors = tensors(state)
            self._structure = structure(state)

    def store(self, state: ModelState, tokens: int) -> None:
        """Put ``state``, after ``tokens`` more tokens, in the place of the last one."""
        self.state = state
        self.seen += tokens

    def detach(self) -> WeftCache:
        """Cut the state from the autograd graph that made it, for training over segments; return the cache."""
        if self.state is not None:
            self.state = detach(self.state)
        return self

    def _each(self, function: Callable[[Tensor], Tensor]) -> None:
        if self.state is not None:
            self.state = map_state(function, self.state)

    def __len__(self) -> int:
        """Return the number of block applications."""
        return 0 if self.state is None else len(self.state.blocks)

    def __repr__(self) -> str:
        return f"WeftCache(seen={self.seen}, batch_size={self.batch_size})"

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002
        """Return the number of tokens read, padding included."""
        return self.seen

    def get_max_length(self, layer_idx: int | None = None) -> int:  # noqa: ARG002
        """Return -1: a text may be of any length."""
        return -1

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:  # noqa: ARG002
        """Return -1: a text may be of any length (the name in older versions)."""
        return -1

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:  # noqa: ARG002
        """Return the length and offset of a mask over everything that was read and ``query_length`` more tokens."""
        return self.seen + query_length, 0

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Give row i the state of row ``beam_idx[i]``, as beam search asks."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows, in this order."""
        self._each(lambda tensor: tensor.index_select(0, indices.to(tensor.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row."""
        self._each(lambda tensor: tensor.repeat_interleave(repeats, dim=0))

    def reset(self) -> None:
        """Forget everything."""
        self.state = None
        self.seen = 0

    def crop(self, tokens_to_remove: int) -> None:  # noqa: ARG002
        """Raise UserError: a recurrent state cannot go back."""
        raise UserError(
            "A Weft cache cannot be cropped, as a recurrent state cannot forget its last tokens: read the text again "
            "up to where you want to go on."
        )

    @property
    def batch_size(self) -> int:
        """The number of rows, -1 before anything was read."""
        return self.tensors[0].shape[0] if self.tensors else -1

    @property
    def max_batch_size(self) -> int:
        """The number of rows (the name in older versions)."""
        return self.batch_size

    @property
    def is_initialized(self) -> bool:
        """Whether anything was read."""
        return self._structure is not None

    @property
    def is_compileable(self) -> bool:
        """Whether shapes never change: no, the attention's windows fill up."""
        return False

    @property
    def is_linear(self) -> list[bool]:
        """Whether what was read already may be given again: no, so that ``generate`` gives new tokens only."""
        return [False]

    @property
    def is_croppable(self) -> bool:
        """Whether :meth:`crop` can go back: no."""
        return False


def one_cache(cache: WeftCache | None, past_key_values: WeftCache | None) -> WeftCache | None:
    """Return the cache that was given under either name; UserError where both are."""
    if cache is None:
        return past_key_values
    if past_key_values is not None:
        raise UserError("cache and past_key_values are two names of one thing: give one of them.")
    return cache


def cache_of(past: object, *, rows: int, device: torch.device) -> WeftCache:
    """Return ``past`` as a cache for ``rows`` sequences; UserError for another class or number of rows."""
    if not isinstance(past, WeftCache):
        raise UserError(
            f"The cache is a {type(past).__name__}, but Weft needs a weft.hf.WeftCache: leave it out, or pass "
            "what an earlier call returned."
        )
    if past.batch_size not in (-1, rows):
        raise UserError(f"The cache is of {past.batch_size} sequences, but the input has {rows}.")
    if past.state is not None and past.tensors and past.tensors[0].device != device:
        past.state = map_state(lambda tensor: tensor.to(device), past.state)
    return past
