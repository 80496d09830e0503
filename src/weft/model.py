"""The model: an embedding, the stack of blocks that the pattern describes, and the softmax.

Shapes: B batch, T time, D model width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from weft.blocks import BLOCKS, AttentionBlock, Block
from weft.config import ModelConfig
from weft.layers.adaptive import make_embedding
from weft.layers.norms import make_norm
from weft.layers.pooling import init_forget_bias_

# One entry per block application, in order; each is the NamedTuple of that kind of block.
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
        kinds = config.block_kinds
        first = config.x.get("first_window")
        wide = config.model_copy(update={"qrnn": config.qrnn.model_copy(update={"window": first})}) if first else config
        self.blocks = nn.ModuleList(BLOCKS[kind](wide if first and i == kinds.index("q") else config) for i, kind in enumerate(kinds))
        post = config.norm_placement == "post"
        self.norm = nn.Identity() if post else make_norm(config.norm, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.checkpoint_activations = False
        X = config.x
        n = len(self.schedule)
        if X.get("x0"):
            self.x0 = nn.Parameter(torch.full((n,), float(X.get("x0_init", 0.0))))
        if X.get("unet"):
            self.unet = nn.Parameter(torch.full((n,), float(X.get("unet_init", 0.0))))
        if X.get("scale"):
            self.block_scale = nn.Parameter(torch.ones(n, config.hidden_size) if X["scale"] == "vector" else torch.ones(n))
        if X.get("gate"):
            self.block_gate = nn.Parameter(torch.zeros(n, config.hidden_size))
        if X.get("tables"):
            self.tables = nn.ModuleList(nn.Embedding(config.vocab_size, config.hidden_size) for _ in range(X["tables"]))
            self.table_scale = nn.Parameter(torch.zeros(X["tables"]))
        _initialise(self)

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
        states = state if state is not None else (None,) * len(self.schedule)
        x_BTD = self.dropout(self.embedding(tokens))
        if self.config.x.get("norm_embedding"):
            x_BTD = nn.functional.rms_norm(x_BTD, x_BTD.shape[-1:])
        after = []
        X = self.config.x
        x0 = x_BTD
        n = len(self.schedule)
        kept = []
        T = X.get("tables", 0)
        for i, (block, before) in enumerate(zip(self.schedule, states, strict=True)):
            if X.get("x0") and i:
                x_BTD = x_BTD + self.x0[i] * x0
            if X.get("unet"):
                j = n - 1 - i
                if j < i:
                    x_BTD = x_BTD + self.unet[i] * kept[j]
            if T:
                # tables at evenly spaced blocks, not at the first
                where = [round((k + 1) * n / (T + 1)) for k in range(T)]
                if i in where:
                    k = where.index(i)
                    x_BTD = x_BTD + self.table_scale[k] * self.tables[k](tokens)
            y_BTD, new = self._step(self.blocks[block], x_BTD, before, reset)
            if X.get("scale"):
                y_BTD = x_BTD + self.block_scale[i] * (y_BTD - x_BTD)
            if X.get("gate"):
                y_BTD = x_BTD + 2 * torch.sigmoid((x_BTD * self.block_gate[i]).sum(-1, keepdim=True) / x_BTD.shape[-1] ** 0.5) * (y_BTD - x_BTD)
            x_BTD = y_BTD
            kept.append(x_BTD)
            after.append(new)
        return self.dropout(self.norm(x_BTD)), tuple(after)

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
        X = self.config.x
        if X.get("cap"):
            cap = float(X["cap"])
            logits = cap * torch.tanh(self.embedding.logits(hidden_BTD) / cap)
            return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100), state
        loss = self.embedding.loss(hidden_BTD, targets)
        w = getattr(self, "mtp_weight", 0.0)
        if w and self.training:
            loss = loss + w * self.embedding.loss(hidden_BTD[:, :-1], targets[:, 1:])
        if X.get("z"):
            loss = loss + 0 
        return loss, state

    @torch.no_grad()
    def surprisal(
        self, tokens: Tensor, targets: Tensor, state: ModelState | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, ModelState]:
        """Return each target's nats (B, T), zero where it is -100, and the state; no gradient."""
        hidden_BTD, state = self.hidden(tokens, state, reset)
        if cap := self.config.x.get("cap"):
            logits = cap * torch.tanh(self.embedding.logits(hidden_BTD) / cap)
            return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="none").view(targets.shape), state
        return self.embedding.surprisal(hidden_BTD, targets), state

    @property
    def parameter_count(self) -> int:
        """All parameters, shared storage counted once."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def body_parameter_count(self) -> int:
        """The parameters outside the embedding and the softmax."""
        return self.parameter_count - sum(parameter.numel() for parameter in self.embedding.parameters())


def build(config: ModelConfig, *, seed: int | None = None) -> WeftModel:
    """Return a freshly initialised model; with ``seed``, always the same, and torch's generator is left as it was."""
    if seed is None:
        return WeftModel(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return WeftModel(config)


@torch.no_grad()
def _initialise(model: WeftModel) -> None:
    """Set the initial values: `classic` is N(0, 0.02) everywhere (Transformer-XL), `modern` N(0, 1 / fan-in)."""
    config = model.config
    classic = config.init == "classic"
    model.embedding.initialise(classic=classic)
    for t in getattr(model, "tables", []):
        nn.init.normal_(t.weight, std=1.0)
    for module in model.blocks.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02 if classic else module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm) and classic:
            nn.init.normal_(module.weight, mean=1.0, std=0.02)
    for block in model.blocks:
        assert isinstance(block, Block)
        _initialise_block(block, config, depth=len(model.schedule))


def _initialise_block(block: Block, config: ModelConfig, depth: int) -> None:
    """Set what is special: maps onto the residual stream, forget biases, Transformer-XL's u and v."""
    if block.output is not None and config.residual_init == "zero":
        nn.init.zeros_(block.output.weight)
    elif block.output is not None and config.residual_init == "scaled":
        block.output.weight.mul_((2 * depth) ** -0.5)
    gates = getattr(block, "gates", None)
    if isinstance(gates, nn.Linear) and config.qrnn.forget_bias == "spread":
        init_forget_bias_(gates.bias, config.qrnn.pooling, LONGEST_TIME_CONSTANT)
    if isinstance(block, AttentionBlock) and config.attention.positions == "relative":
        nn.init.normal_(block.content_bias, std=0.02)
        nn.init.normal_(block.position_bias, std=0.02)
