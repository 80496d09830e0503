"""The model: an embedding, the stack of blocks that the pattern describes, and the softmax.

The stack is gone through in one place, :func:`walk`, by whoever reads a text with it. Whoever wants to look
at what flows through it, or to change it, says so to the walk: no module is hooked, so two threads can read
with one model.

Shapes: B batch, T time, D model width, H heads of latent bigrams, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from weft.arguments import checked
from weft.blocks import Block
from weft.config import ModelConfig
from weft.kinds import kind_of
from weft.layers.adaptive import make_embedding
from weft.layers.embedding import vectors
from weft.layers.maps import StructuredMap, is_guide, weights
from weft.layers.matrix_product import MatrixProduct
from weft.layers.ngrams import LatentBigrams, NGramState
from weft.layers.norms import make_norm
from weft.layers.sites import RESIDUAL, At, Edits, Watch
from weft.layers.state import NoState, zeros
from weft.memory import check_memory
from weft.tracing import PIECE, Piece, Site, trace

# (block, x_BTD, its state, reset_BT, who looks or changes) -> (y_BTD, state): how one block is applied, by
# its number in ``blocks``.
ApplyBlock = Callable[[int, Tensor, Any, Tensor | None, At | None], tuple[Tensor, Any]]


class ModelState(NamedTuple):
    """What a model remembers of the texts that it reads.

    ``blocks`` has one entry for each block application, in order, the NamedTuple of that kind of block;
    ``embedding`` is what latent bigrams remember.
    """

    blocks: tuple[Any, ...]
    embedding: NGramState | NoState = NoState()


class Stack(Protocol):
    """The part of a model that :func:`walk` goes through."""

    schedule: tuple[int, ...]
    ngrams: LatentBigrams | None

    @property
    def dropout(self) -> nn.Module:
        """What is left out of the first block's input in training."""


def walk(
    stack: Stack,
    embedded_BTD: Tensor,
    ids_BTH: Tensor | None,
    state: ModelState | None,
    reset_BT: Tensor | None,
    apply: ApplyBlock,
    *,
    watch: Watch | None = None,
    edits: Edits | None = None,
) -> tuple[Tensor, ModelState]:
    """Go through a stack with the tokens' vectors; return what the last norm reads (B, T, D), and the state.

    ``ids_BTH`` are the tokens' latent ids, None where the model has none; ``apply`` applies a block.
    ``edits`` change what is read or added, and ``watch`` then sees the sites that it wants
    (:mod:`weft.layers.sites`): the tensors of the computation itself, with gradients, and not to be changed in
    place.
    """
    nobody = watch is None and edits is None

    def visit(depth: int, x_BTD: Tensor) -> Tensor:
        if edits is not None:
            x_BTD = edits.of_residual(depth, x_BTD)
        if watch is not None and watch.wants(RESIDUAL, depth):
            watch.see(RESIDUAL, depth, x_BTD)
        return x_BTD

    # Latent bigrams change the tokens' vectors before anybody reads them.
    depth = len(stack.schedule)
    before: Sequence[Any] = (None,) * depth if state is None else state.blocks
    x_BTD = embedded_BTD
    remembered: NGramState | NoState = NoState()
    if stack.ngrams is not None:
        last = None if state is None else state.embedding
        x_BTD, remembered = stack.ngrams(x_BTD, ids_BTH, last, reset_BT)
    x_BTD = stack.dropout(x_BTD)

    # A block that is applied several times has a state for each application.
    after = []
    for application, block in enumerate(stack.schedule):
        x_BTD = visit(application, x_BTD)
        at = None if nobody else At(application, watch, edits)
        x_BTD, new = apply(block, x_BTD, before[application], reset_BT, at)
        after.append(new)
    return visit(depth, x_BTD), ModelState(tuple(after), remembered)


class WeftModel(nn.Module):
    """A stack of blocks over a token embedding, with explicit recurrent state.

    ``blocks`` holds the blocks that have parameters of their own; ``schedule`` lists the block of each
    application, so a block that the pattern repeats with shared parameters stands in ``blocks`` once and in
    ``schedule`` often.

    With ``checkpoint_activations`` set, training keeps only what goes into each block, and makes what is
    inside again in the backward pass (Chen et al. 2016, arXiv 1604.06174): the same numbers from less memory
    in more time.
    """

    model_type = "weft"

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.schedule = config.schedule
        self.embedding = make_embedding(config)
        self.ngrams = LatentBigrams(config.ngrams, config.hidden_size) if config.ngrams else None
        self.blocks = nn.ModuleList(kind_of(block).block(block, config) for block in config.blocks)
        post = config.norm_placement == "post"
        self.norm = nn.Identity() if post else make_norm(config.norm, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.checkpoint_activations = False
        _initialise(self)
        share_centrals(self.blocks, config)

    def forward(
        self,
        tokens: Tensor,
        state: ModelState | None = None,
        reset: Tensor | None = None,
        *,
        edits: Edits | None = None,
    ) -> tuple[Tensor, ModelState]:
        """Return float32 ``(logits_BTV, state)`` for ``tokens`` (B, T); adaptive logits are log-probabilities.

        ``state`` is what an earlier call returned (None at the start of a text); ``reset`` is a boolean (B,
        T), True at the first token of each document: nothing crosses it. Position t's logits are for the
        token at t + 1. ``edits`` change what flows through the stack (:class:`weft.layers.sites.Edits`).
        """
        hidden_BTD, state = self.hidden(tokens, state, reset, edits=edits)
        return self.embedding.logits(hidden_BTD), state

    def hidden(
        self,
        tokens: Tensor,
        state: ModelState | None = None,
        reset: Tensor | None = None,
        *,
        watch: Watch | None = None,
        edits: Edits | None = None,
    ) -> tuple[Tensor, ModelState]:
        """Return the last hidden states (B, T, D), which the softmax reads, and the state.

        ``watch`` sees what stands at the sites of the stack, and ``edits`` change it: see :func:`walk`.
        """
        ids_BTH = None if self.ngrams is None else self.ngrams.ids(tokens, vectors(self.embedding))
        x_BTD, state = walk(
            self, self.embedding(tokens), ids_BTH, state, reset, self._apply_block, watch=watch, edits=edits
        )
        return self.normed(x_BTD), state

    def normed(self, x_BTD: Tensor) -> Tensor:
        """Return what the softmax reads, given what stands at any site of the stack (B, T, D)."""
        hidden_BTD: Tensor = self.dropout(self.norm(x_BTD))
        return hidden_BTD

    def unembed(self, x_BTD: Tensor) -> Tensor:
        """Return the logits (B, T, V) of what stands at any site of the stack (B, T, D), as if it were the last."""
        return self.embedding.logits(self.normed(x_BTD))

    def _apply_block(
        self, block: int, x_BTD: Tensor, state: Any, reset_BT: Tensor | None, at: At | None
    ) -> tuple[Tensor, Any]:
        """Apply a block; nobody wants what is inside it kept while no gradient is made."""
        module = self.blocks[block]
        # Who looks would see everything twice.
        again = self.checkpoint_activations and (at is None or at.watch is None)
        if again and self.training and torch.is_grad_enabled():
            result: tuple[Tensor, Any] = checkpoint(module, x_BTD, state, reset_BT=reset_BT, at=at, use_reentrant=False)
            return result
        y_BTD, state = module(x_BTD, state, reset_BT=reset_BT, at=at)
        return y_BTD, state

    @torch.no_grad()
    def empty_state(self, batch_size: int, device: torch.device) -> ModelState:
        """Return the state at a text's start in the size that it has later: zeros, which every part takes for none.

        With states of one size, every segment has the same shapes, and a model is compiled once. The parts
        decide what they remember and in which precision, also under autocast; so the model reads a window of
        one token, and what it then remembers gives the form.
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
        self,
        tokens: Tensor,
        targets: Tensor,
        state: ModelState | None = None,
        reset: Tensor | None = None,
        *,
        edits: Edits | None = None,
    ) -> tuple[Tensor, ModelState]:
        """Return each target's nats (B, T), zero where it is -100, and the state; no gradient."""
        hidden_BTD, state = self.hidden(tokens, state, reset, edits=edits)
        return self.embedding.surprisal(hidden_BTD, targets), state

    def trace(
        self,
        tokens: Tensor,
        state: ModelState | None = None,
        reset: Tensor | None = None,
        *,
        sites: Sequence[str] = (RESIDUAL,),
        piece: int = PIECE,
        edits: Edits | None = None,
    ) -> Iterator[Piece]:
        """Yield what stands at ``sites`` for ``tokens`` (B, T), ``piece`` positions at a time; see :class:`Piece`.

        A site is a name with a depth, ``cell.2``, or a name alone, for all depths that have it; :meth:`sites` lists
        them. It is read without gradient in evaluation mode, from ``state`` on, with the ``edits``, which have no mask.
        UserError for a site that there is not.
        """
        return trace(self, tokens, state, reset, sites=sites, piece=piece, edits=edits)

    def sites(self) -> list[Site]:
        """Return the sites of the stack, by depth: what can be looked at."""
        found = []
        for depth, block in enumerate(self.schedule):
            own = self.own_blocks[block]
            letter = self.config.stack.letters[block]
            found.append(Site(RESIDUAL, depth, "B, T, D", letter))
            found += [Site(name, depth, shape, letter) for name, shape in own.sites().items()]
        found.append(Site(RESIDUAL, self.depth, "B, T, D", "the last norm"))
        return found

    def lookup_tables(self) -> list[nn.Parameter]:
        """Return the tables of latent bigrams, most rows of which are read rarely."""
        return [] if self.ngrams is None else self.ngrams.tables()

    @property
    def context(self) -> None:
        """None: state is carried through a text of any length."""

    @property
    def depth(self) -> int:
        """The number of block applications."""
        return len(self.schedule)

    @property
    def shape(self) -> str:
        """The pattern and the width."""
        return f"{self.config.pattern}, width {self.config.hidden_size}"

    @property
    def one_graph(self) -> Literal["loss", "hidden"]:
        """What ``torch.compile`` makes one graph of: an adaptive softmax computes clusters for their tokens alone."""
        return "loss" if self.config.adaptive is None else "hidden"

    @property
    def data_parallel_only(self) -> str | None:
        """What keeps the parameters from being shared among processes (FSDP); None where nothing does."""
        if self.ngrams is not None and self.ngrams.remembers:
            return "Latent bigrams"
        return "Blocks in '{ }'" if self.config.centrals else None

    def state_bytes(self, context: int) -> int:
        """Return the float32 bytes of state that one sequence carries after ``context`` tokens."""
        total = 0 if self.ngrams is None else self.ngrams.state_bytes
        for block in self.schedule:
            module = self.blocks[block]
            assert isinstance(module, Block)
            total += module.state_bytes(context)
        return total

    @property
    def parameter_count(self) -> int:
        """All parameters, shared storage counted once, without what guides them in training."""
        total = 0
        for name, parameter in self.named_parameters():
            if not is_guide(name):
                total += parameter.numel()
        return total

    @property
    def body_parameter_count(self) -> int:
        """The parameters outside the embedding, the softmax and the latent bigrams."""
        outside = list(self.embedding.parameters())
        if self.ngrams is not None:
            outside += self.ngrams.parameters()
        return self.parameter_count - sum(parameter.numel() for parameter in outside)


def share_centrals(blocks: nn.ModuleList, config: ModelConfig) -> None:
    """Let the copies of a block in the pattern's ``{ }`` use the central tensors of the first."""
    for block, owner in config.shared_centrals.items():
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
    # First all linear maps and norms.
    for module in model.blocks.modules():
        if isinstance(module, nn.Linear):
            std = 0.02 if classic else module.in_features**-0.5
            nn.init.normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, StructuredMap):
            std = 0.02 if classic else module.in_features**-0.5
            module.initialise(std)
            if isinstance(module, MatrixProduct) and module.depth_scaled:
                module.before[0].mul_((2 * len(model.schedule)) ** -0.25)
        elif isinstance(module, nn.LayerNorm) and classic:
            nn.init.normal_(module.weight, mean=1.0, std=0.02)
    # Then what writes to the residual stream: at zero each block starts as the identity; scaled by (2
    # L)^(-1/2) the stream keeps its size over L blocks (Radford et al. 2019). At last what a kind of block
    # has of its own.
    for block in model.own_blocks:
        if block.output is not None and config.residual_init == "zero":
            nn.init.zeros_(weights(block.output)[-1])
        elif block.output is not None and config.residual_init == "scaled":
            weights(block.output)[-1].mul_((2 * len(model.schedule)) ** -0.5)
        block.initialise()
