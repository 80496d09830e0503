"""The models that are measured: ours, and peers of as many parameters, each with a training step of its own.

A peer is what a careful user of its package would train: its attention is torch's scaled dot product (flash where there
is one), its loss is the usual cross-entropy over all logits, its optimizer is the one that ours has. Everybody gets the
same tokens. Ours carries its state from step to step and takes resets; peers see each row as one document, which is
their fastest case.

Shapes: B batch, T context, D model width, V vocabulary.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.harness import Options, Unit

Loss = Callable[[Tensor, Tensor], Tensor]
Optimizers = list[torch.optim.Optimizer]
DOCUMENT = 512  # tokens, on average, from one reset to the next
TOLERANCE = 0.01


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What a training step is measured on."""

    size: str
    vocab_size: int
    batch: int
    context: int = 512

    @property
    def parameters(self) -> int:
        from weft.pattern import parse_count

        return parse_count(self.size)

    @property
    def tokens(self) -> int:
        return self.batch * self.context


SCALES = {
    "cpu": [Scale(size="2M", vocab_size=4096, batch=8), Scale(size="10M", vocab_size=4096, batch=8)],
    "gpu": [Scale(size="41M", vocab_size=16384, batch=32), Scale(size="150M", vocab_size=16384, batch=32)],
}
QUICK = [Scale(size="100k", vocab_size=300, batch=2, context=32)]


def precisions(options: Options) -> list[str]:
    """Return the precisions in which training is measured: what ``weft train`` takes here, and on a CPU float32."""
    from weft.training.precision import use_bf16

    native = use_bf16("auto", torch.device(options.device))
    if options.gpu:
        return ["bf16" if native else "fp32"]
    return ["bf16", "fp32"] if native else ["fp32"]


def scales(options: Options) -> list[Scale]:
    return QUICK if options.quick else SCALES[options.kind]


def text(scale: Scale, options: Options) -> tuple[Tensor, Tensor, Tensor]:
    """Return the same random tokens (B, T) for all, their successors, and where documents begin."""
    generator = torch.Generator().manual_seed(options.seed)
    shape = (scale.batch, scale.context + 1)
    tokens = torch.randint(scale.vocab_size - 2, shape, generator=generator)
    reset = torch.rand(scale.batch, scale.context, generator=generator) < 1 / DOCUMENT
    return tuple(x.contiguous().to(options.device) for x in (tokens[:, :-1], tokens[:, 1:], reset))  # type: ignore[return-value]


def weft_model(architecture: str, scale: Scale, options: Options) -> Any:
    import weft

    config = weft.sized(architecture, parameters=scale.size, vocab_size=scale.vocab_size)
    return weft.build(config, seed=options.seed).to(options.device).train()


def weft_step(
    architecture: str, scale: Scale, options: Options, *, compiled: bool, bf16: bool, own_optimizer: bool = False
) -> tuple[Unit, nn.Module]:
    """Return a training step of ours, with AdamW as ``weft train`` has it or its own choice, and the model."""
    from weft.layers.state import detach
    from weft.training.compilation import compile_loss

    model = weft_model(architecture, scale, options)
    tokens, targets, reset = text(scale, options)
    carried = [model.empty_state(scale.batch, tokens.device)]  # as large as all later ones, as in training
    loss_of = compile_loss(model) if compiled else model.loss

    def loss() -> Tensor:
        value, state = loss_of(tokens, targets, carried[0], reset)
        carried[0] = detach(state)
        return value

    optimizers = _own_optimizers(model) if own_optimizer else _own_optimizers(model, optimizer={"name": "adamw"})
    return _step(loss, optimizers, options, bf16=bf16), model


def llama_step(scale: Scale, options: Options, *, compiled: bool, bf16: bool) -> tuple[Unit, nn.Module]:
    """Return a training step of transformers' Llama, and the model."""
    model = llama(scale, options).train()
    tokens, _, _ = text(scale, options)

    def loss_of(tokens_BT: Tensor) -> Tensor:
        return model(input_ids=tokens_BT, labels=tokens_BT, use_cache=False).loss  # it shifts the labels itself

    called = torch.compile(loss_of, dynamic=False) if compiled else loss_of
    return _step(lambda: called(tokens), _adamw(model), options, bf16=bf16), model


def llama(scale: Scale, options: Options, *, context: int | None = None) -> Any:
    """Return transformers' Llama with torch's fused attention and tied embeddings."""
    from transformers import LlamaForCausalLM

    from weft.baselines.llama import sized

    config = sized(parameters=scale.parameters, vocab_size=scale.vocab_size, context=context or scale.context)
    config._attn_implementation = "sdpa"
    torch.manual_seed(options.seed)
    return LlamaForCausalLM(config).to(options.device)


def x_transformers_step(scale: Scale, options: Options, *, compiled: bool, bf16: bool) -> tuple[Unit, nn.Module]:
    """Return a training step of x-transformers' decoder, and the model."""
    torch.manual_seed(options.seed)
    model = x_transformers(scale).to(options.device).train()
    tokens, targets, _ = text(scale, options)

    def loss_of(tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        return F.cross_entropy(model(tokens_BT).flatten(0, 1), targets_BT.flatten())

    called = torch.compile(loss_of, dynamic=False) if compiled else loss_of
    return _step(lambda: called(tokens, targets), _adamw(model), options, bf16=bf16), model


def x_transformers(scale: Scale) -> nn.Module:
    """Return x-transformers' decoder: rotary, RMSNorm, flash attention, tied; width and inner width meet the budget.

    The depth is that of the other models. Of round widths the one counts that brings the feed-forward maps nearest to
    four times as wide, as is this package's default.
    """
    from weft.architectures import default_pairs

    depth, best = default_pairs(scale.parameters), None
    for width in (*range(32, 352, 32), *range(384, 1 << 12, 64)):  # large matrices run best at multiples of 64
        least, more = (_count(scale, width, depth, inner) for inner in (8, 16))
        inner = 8 + 8 * round((scale.parameters - least) / (more - least))
        if inner < 8:
            break
        off = abs(_count(scale, width, depth, inner) / scale.parameters - 1)
        if off <= TOLERANCE and (
            best is None or abs(math.log(inner / width / 4)) < abs(math.log(best[1] / best[0] / 4))
        ):
            best = (width, inner)
    if best is None:
        raise ValueError(f"no width of x-transformers' decoder has {scale.size} parameters")
    return _x_transformers(scale, best[0], depth, best[1])


def _count(scale: Scale, width: int, depth: int, inner: int) -> int:
    with torch.device("meta"):
        return count(_x_transformers(scale, width, depth, inner))


def _x_transformers(scale: Scale, width: int, depth: int, inner: int) -> nn.Module:
    with contextlib.suppress(ImportError):
        from loguru import logger

        logger.disable("x_transformers")  # it comments on settings that are meant
    from x_transformers import Decoder, TransformerWrapper

    head = 32 if width <= 256 or width % 64 else 64
    layers = Decoder(
        dim=width,
        depth=depth,
        heads=width // head,
        attn_dim_head=head,
        attn_flash=True,
        rotary_pos_emb=True,
        rotary_emb_dim=head,
        use_rmsnorm=True,
        ff_mult=inner / width,
    )
    return TransformerWrapper(
        num_tokens=scale.vocab_size,
        max_seq_len=scale.context,
        tie_embedding=True,
        use_abs_pos_emb=False,
        attn_layers=layers,
    )


def count(model: nn.Module) -> int:
    """Return the parameters, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def sizes(model: nn.Module, scale: Scale) -> dict[str, int]:
    """Return the parameters with and without the (tied) embedding; ValueError where they are not those asked for."""
    everything = count(model)
    if scale.parameters >= 1_000_000 and abs(everything / scale.parameters - 1) > TOLERANCE:
        raise ValueError(f"{everything:,} parameters are not {scale.size} within 1 %")
    tables = [p for p in model.parameters() if p.dim() == 2 and p.shape[0] == scale.vocab_size]
    return {"parameters": everything, "without embedding": everything - sum(p.numel() for p in tables)}


def _adamw(model: nn.Module) -> Optimizers:
    return [torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)]


def _own_optimizers(model: Any, **training: Any) -> Optimizers:
    from weft.training.optimizer import make_optimizers
    from weft.training.recipe import TrainingConfig

    return list(make_optimizers(model, TrainingConfig.model_validate(training)))


def keep_bf16_copies(module: nn.Module) -> None:
    """Let copies of the weights in bfloat16 be used again, as where an optimizer keeps them."""
    from weft.layers.copies import keep_copies

    keep_copies(module.parameters(), owner=module)


def forget_compiled(options: Options) -> None:
    """Drop what torch compiled: each new contender would be compared with all that came before it."""
    if options.compiled:
        torch._dynamo.reset()


def _step(loss: Callable[[], Tensor], optimizers: Optimizers, options: Options, *, bf16: bool) -> Unit:
    """Return one step: loss (under autocast in bfloat16, or in float32), gradients, optimizer."""

    def step() -> None:
        with torch.autocast(options.device, torch.bfloat16, enabled=bf16):
            value = loss()
        value.backward()
        for optimizer in optimizers:
            optimizer.step()
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)

    return step
