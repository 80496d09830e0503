"""A baseline as small as one can be: a GRU that carries its state, in one file (and a line in `BASELINES`)."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from weft.files import write_atomic
from weft.layers.embedding import TokenEmbedding
from weft.pretrained import load_into, load_weights

NAME = "toy"


class ToyState(NamedTuple):
    hidden_BD: Tensor


class Toy(nn.Module):
    model_type = NAME
    one_graph = None
    data_parallel_only = "Toys"
    context = None
    window = 0
    depth = 1
    shape = "one GRU"
    checkpoint_activations = False

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embedding = TokenEmbedding(config.vocab_size, config.hidden_size)
        self.embedding.initialise(classic=False)
        self.blocks = nn.ModuleList([nn.GRUCell(config.hidden_size, config.hidden_size)])

    def hidden(self, tokens, state=None, reset=None):
        hidden_BD = torch.zeros_like(self.embedding.weight_VD[tokens[:, 0]]) if state is None else state.hidden_BD
        hiddens = []
        for time, x_BD in enumerate(self.embedding(tokens).unbind(1)):
            if reset is not None:
                hidden_BD = hidden_BD.masked_fill(reset[:, time, None], 0)
            hidden_BD = self.blocks[0](x_BD, hidden_BD)
            hiddens.append(hidden_BD)
        return torch.stack(hiddens, dim=1), ToyState(hidden_BD)

    def forward(self, tokens, state=None, reset=None):
        hidden_BTD, state = self.hidden(tokens, state, reset)
        return self.embedding.logits(hidden_BTD), state

    def loss(self, tokens, targets, state=None, reset=None):
        hidden_BTD, state = self.hidden(tokens, state, reset)
        return self.embedding.loss(hidden_BTD, targets), state

    @torch.no_grad()
    def surprisal(self, tokens, targets, state=None, reset=None):
        hidden_BTD, state = self.hidden(tokens, state, reset)
        return self.embedding.surprisal(hidden_BTD, targets), state

    def empty_state(self, batch_size, device):
        return ToyState(torch.zeros(batch_size, self.config.hidden_size, device=device))

    def state_bytes(self, context):  # noqa: ARG002
        return 4 * self.config.hidden_size

    def observe(self, tokens, summed=lambda x: x):
        pass

    def lookup_tables(self):
        return []

    @property
    def parameter_count(self):
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def body_parameter_count(self):
        return sum(parameter.numel() for parameter in self.blocks.parameters())


def sized(*, parameters, vocab_size, context, dropout=0.0):
    return SimpleNamespace(vocab_size=vocab_size, hidden_size=max(4, parameters // vocab_size // 2))


def build(config, *, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Toy(config)


def save_config(config, folder):
    write_atomic(folder / "config.json", json.dumps({"model_type": NAME, **vars(config)}))


def read_config(folder):
    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return SimpleNamespace(vocab_size=values["vocab_size"], hidden_size=values["hidden_size"])


def is_described(folder):
    return (folder / "config.json").is_file()


def fresh_model(folder, *, seed):
    return build(read_config(folder), seed=seed)


def load_model(folder, **changes):
    model = Toy(read_config(folder))
    path = folder / "model.safetensors"
    load_into(model, load_weights(path), path)
    return model.eval()
