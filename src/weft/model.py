"""The model: an embedding, the stack of blocks that the pattern describes, and the softmax.

Shapes: B batch, T time, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from weft.arguments import checked
from weft.blocks import BLOCKS, AttentionBlock, Block
from weft.blocks.recurrent import RecurrentBlock
from weft.config import ModelConfig
from weft.layers.adaptive import make_embedding
from weft.layers.embedding import vectors
from weft.layers.maps import StructuredMap, is_guide, weights
from weft.layers.matrix_product import MatrixProduct
from weft.layers.ngrams import LatentBigrams
from weft.layers.norms import make_norm
from weft.layers.pooling import init_forget_bias_
from weft.layers.state import zeros
from weft.memory import check_memory

# One entry per block application, in order, each the NamedTuple of that kind of block; then, where the model has latent
# bigrams, what they remember.
ModelState = tuple[Any, ...]
LONGEST_TIME_CONSTANT = 256.0


class WeftModel(nn.Module):
    """A stack of blocks over a token embedding, with explicit recurrent state.

    ``blocks`` holds the blocks that have parameters of their own; ``schedule`` lists the block of each application, so
    a block that the pattern repeats with shared parameters stands in ``blocks`` once and in ``schedule`` often.

    With ``checkpoint_activations`` set, training keeps only what goes into each block, and makes what is inside again
    in the backward pass (Chen et al. 2016, arXiv 1604.06174): the same numbers from less memory in more time.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.schedule = tuple(application.block for application in config.applications)
        self.embedding = make_embedding(config)
        self.ngrams = LatentBigrams(config.ngrams, config.hidden_size) if config.ngrams else None
        own = zip(config.block_kinds, config.of_blocks(), strict=True)
        self.blocks = nn.ModuleList(BLOCKS[kind](of_block) for kind, of_block in own)
        post = config.norm_placement == "post"
        self.norm = nn.Identity() if post else make_norm(config.norm, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.checkpoint_activations = False
        _initialise(self)
        share_centrals(self.blocks, config)

    def forward(
        self, tokens: Tensor, state: ModelState | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, ModelState]:
        """Return float32 ``(logits_BTV, state)`` for ``tokens`` (B, T); adaptive logits are log-probabilities.

        ``state`` is what an earlier call returned (None at the start of a text); ``reset`` is a boolean (B, T), True at
        the first token of each document: nothing crosses it. Position t's logits are for the token at t + 1.
        """
        hidden_BTD, state = self.hidden(tokens, state, reset)
        return self.embedding.logits(hidden_BTD), state

    def hidden(
        self, tokens: Tensor, state: ModelState | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, ModelState]:
        """Return the last hidden states (B, T, D), which the softmax reads, and the state."""
        depth = len(self.schedule)
        states = state if state is not None else (None,) * (depth + 1)
        x_BTD, remembered = self.embedding(tokens), ()
        if self.ngrams is not None:
            ids_BTH = self.ngrams.ids(tokens, vectors(self.embedding))
            x_BTD, remembered = self.ngrams(x_BTD, ids_BTH, states[depth:], reset)
        x_BTD, after = self.dropout(x_BTD), []
        for block, before in zip(self.schedule, states[:depth], strict=True):
            x_BTD, new = self._step(self.blocks[block], x_BTD, before, reset)
            after.append(new)
        return self.dropout(self.norm(x_BTD)), (*after, *remembered)

    @torch.no_grad()
    def empty_state(self, batch_size: int, device: torch.device) -> ModelState:
        """Return the state at a text's start in the size that it has later: zeros, which every part takes for none.

        With states of one size, every segment has the same shapes, and a model is compiled once. The parts decide what
        they remember and in which precision, also under autocast; so the model reads a window of one token, and what
        it then remembers gives the form.
        """
        tokens = torch.zeros(1, max(1, self.window), dtype=torch.long, device=device)
        training = self.training
        _, state = self.eval().hidden(tokens)  # in training, dropout and zoneout would draw random numbers
        self.train(training)
        return zeros(state, batch_size)

    @property
    def window(self) -> int:
        """How many tokens the attention of any block reaches back at most; 0 without attention."""
        return max((block.window for block in self.own_blocks), default=0)

    @property
    def own_blocks(self) -> list[Block]:
        """The blocks that have parameters of their own, as what they are."""
        return cast("list[Block]", list(self.blocks))

    def observe(self, tokens: Tensor, summed: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        """Take in what was read in training, without a gradient: the centroids of latent bigrams move.

        ``summed`` adds a tensor up over all processes.
        """
        if self.ngrams is not None:
            self.ngrams.observe(tokens, vectors(self.embedding), summed)

    def _step(self, block: nn.Module, x_BTD: Tensor, state: Any, reset_BT: Tensor | None) -> tuple[Tensor, Any]:
        """Apply a block; nobody wants what is inside it kept while no gradient is made."""
        if self.checkpoint_activations and self.training and torch.is_grad_enabled():
            result: tuple[Tensor, Any] = checkpoint(block, x_BTD, state, reset_BT=reset_BT, use_reentrant=False)
            return result
        y_BTD, state = block(x_BTD, state, reset_BT=reset_BT)
        return y_BTD, state

    def loss(
        self, tokens: Tensor, targets: Tensor, state: ModelState | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, ModelState]:
        """Return ``(mean nats, state)``: ``targets`` (B, T) are aligned to the logits, and -100 is ignored.

        The caller shifts: the target of position t is the token at t + 1. Logits are made in chunks.
        """
        hidden_BTD, state = self.hidden(tokens, state, reset)
        return self.embedding.loss(hidden_BTD, targets), state

    @torch.no_grad()
    def surprisal(
        self, tokens: Tensor, targets: Tensor, state: ModelState | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, ModelState]:
        """Return each target's nats (B, T), zero where it is -100, and the state; no gradient."""
        hidden_BTD, state = self.hidden(tokens, state, reset)
        return self.embedding.surprisal(hidden_BTD, targets), state

    @property
    def parameter_count(self) -> int:
        """All parameters, shared storage counted once, without what guides them in training."""
        named = self.named_parameters()
        return sum(parameter.numel() for name, parameter in named if not is_guide(name))

    @property
    def body_parameter_count(self) -> int:
        """The parameters outside the embedding, the softmax and the latent bigrams."""
        parts = [self.embedding] if self.ngrams is None else [self.embedding, self.ngrams]
        return self.parameter_count - sum(parameter.numel() for part in parts for parameter in part.parameters())


def share_centrals(blocks: nn.ModuleList, config: ModelConfig) -> None:
    """Let the copies of a block in the pattern's ``{ }`` use the central tensors of the first."""
    for block, owner in config.centrals.items():
        theirs = dict(blocks[owner].named_modules())
        for name, part in blocks[block].named_modules():
            if isinstance(part, MatrixProduct):
                part.central_aijd = theirs[name].central_aijd


@checked
def build(config: ModelConfig, *, seed: int | None = None) -> WeftModel:
    """Return a freshly initialised model; with ``seed``, always the same, and torch's generator is left as it was.

    UserError where this machine's memory does not hold its weights.
    """
    check_weights(lambda: WeftModel(config))
    if seed is None:
        return WeftModel(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return WeftModel(config)


def check_weights(make: Callable[[], nn.Module]) -> None:
    """Raise UserError where memory does not hold the weights of what ``make`` makes, which is made without any here."""
    if torch.get_default_device().type != "cpu":  # the memory of which is looked at here
        return
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in make().parameters())
    check_memory(4 * size, f"A model of {size:,} parameters", "make it smaller")


@torch.no_grad()
def _initialise(model: WeftModel) -> None:
    """Set the initial values: `classic` is N(0, 0.02) everywhere (Transformer-XL), `modern` N(0, 1 / fan-in)."""
    config = model.config
    classic = config.init == "classic"
    model.embedding.initialise(classic=classic)
    if model.ngrams is not None:
        model.ngrams.initialise(vectors(model.embedding))
    for module in model.blocks.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02 if classic else module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, StructuredMap):
            module.initialise(0.02 if classic else module.in_features**-0.5)
            if isinstance(module, MatrixProduct) and module.depth_scaled:
                module.before[0].mul_((2 * len(model.schedule)) ** -0.25)
        elif isinstance(module, nn.LayerNorm) and classic:
            nn.init.normal_(module.weight, mean=1.0, std=0.02)
    for block in model.own_blocks:
        _initialise_block(block, config, depth=len(model.schedule))


def _initialise_block(block: Block, config: ModelConfig, depth: int) -> None:
    """Set what is special: maps onto the residual stream, forget biases, Transformer-XL's u and v."""
    if block.output is not None and config.residual_init == "zero":
        nn.init.zeros_(weights(block.output)[-1])
    elif block.output is not None and config.residual_init == "scaled":
        weights(block.output)[-1].mul_((2 * depth) ** -0.5)
    if isinstance(block, RecurrentBlock) and block.qrnn.forget_bias == "spread":
        assert block.gates.bias is not None
        init_forget_bias_(block.gates.bias, block.qrnn.pooling, LONGEST_TIME_CONSTANT)
    if isinstance(block, AttentionBlock) and block.config.positions == "relative":
        nn.init.normal_(block.content_bias, std=0.02)
        nn.init.normal_(block.position_bias, std=0.02)
