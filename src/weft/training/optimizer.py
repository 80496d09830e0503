"""AdamW, or Muon for the hidden matrices with AdamW for the rest; the average of the weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from weft.peers import LanguageModel
from weft.training.muon import Muon
from weft.training.parallel import local
from weft.training.recipe import TrainingConfig


def make_optimizers(model: LanguageModel, config: TrainingConfig) -> list[Optimizer]:
    """Return the optimizers of ``model``'s parameters. Vectors and scalars (norms, biases, gains) do not decay."""
    hidden = _hidden_matrices(model) if config.optimizer == "muon" else []
    taken = {id(parameter) for parameter in hidden}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in taken]
    hd = config.weight_decay if config.head_decay is None else config.head_decay
    groups = [
        {"params": [p for p in rest if p.dim() >= 2], "weight_decay": hd, "mult": config.embedding_rate},
        {"params": [p for p in rest if p.dim() < 2], "weight_decay": 0.0, "mult": config.vector_rate},
    ]
    adamw = AdamW(
        [group for group in groups if group["params"]], lr=config.learning_rate, betas=config.betas, fused=True
    )
    if not hidden:
        return [adamw]
    n = len(model.blocks)
    depth = {id(m.weight): i for i, b in enumerate(model.blocks) for m in b.modules() if isinstance(m, nn.Linear)}
    if config.depth_rate != 1:  # first block's multiplier; last's is 1
        G = [{"params": [p for p in hidden if depth[id(p)] == i], "mult": config.depth_rate ** (1 - i / (n - 1))} for i in range(n)]
    elif config.output_rate != 1:
        outs = {id(b.output.weight) for b in model.blocks if getattr(b, "output", None) is not None}
        G = [{"params": [p for p in hidden if id(p) not in outs]}, {"params": [p for p in hidden if id(p) in outs], "mult": config.output_rate}]
    else:
        G = hidden
    muon = Muon(G, lr=config.learning_rate, weight_decay=config.weight_decay, momentum=config.momentum)
    muon.normuon, muon.cautious = config.normuon, config.cautious
    return [muon, adamw]


def set_learning_rate(optimizers: list[Optimizer], learning_rate: float) -> None:
    """Set the learning rate of every group."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * group.get("mult", 1.0)


def _hidden_matrices(model: LanguageModel) -> list[Tensor]:
    """Return the weights of the linear maps inside blocks."""
    return [module.weight for module in model.blocks.modules() if isinstance(module, nn.Linear)]


class ExponentialAverage:
    """A running average of the weights: ``average <- decay * average + (1 - decay) * weights``.

    Early on the decay is smaller (as if it were a plain mean), so that the start is forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.average = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the current weights."""
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + 10))
        named = dict(model.named_parameters())
        averages = [local(self.average[name]) for name in named]
        torch._foreach_lerp_(averages, [local(parameter.detach()) for parameter in named.values()], 1 - decay)

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Exchange the model's weights and the average (call again to change back)."""
        for name, parameter in model.named_parameters():
            kept = parameter.detach().clone()
            parameter.copy_(self.average[name])
            self.average[name].copy_(kept)
