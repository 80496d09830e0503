"""The one run that a server serves: its model, once natively and once as transformers knows it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from weft.data import DataConfig, Tokenizer
from weft.description import describe
from weft.errors import UserError
from weft.generation.steering import Steering
from weft.hf import WeftConfig, WeftForCausalLM, register
from weft.inside.vectors import steering, vector_names
from weft.model import WeftModel
from weft.pretrained import assign, load_model
from weft.recall import TextMemory
from weft.records import RECIPE, finite, read_run, section
from weft.reports.run.words import weights_bits
from weft.run import Run
from weft.serve.limits import Refused
from weft.training.run_folder import saved_recipe
from weft.version import __version__


@dataclass(frozen=True, kw_only=True)
class ServedRun:
    """A loaded run.

    ``names`` are what a request may call it, ``listing`` is how ``/v1/models`` tells of it, and
    ``separator`` is what parts documents in its corpus. ``memory`` counts beside the model in Weft's own endpoints.
    """

    folder: Path
    name: str
    names: frozenset[str]
    listing: dict[str, Any]
    model: WeftModel
    tokenizer: Tokenizer
    adapter: WeftForCausalLM
    adapter_tokenizer: PreTrainedTokenizerBase
    separator: str
    memory: TextMemory | None
    facts: dict[str, Any]

    def check_name(self, asked: str | None) -> None:
        """Refuse a request for another model with 404."""
        if asked is not None and asked not in self.names:
            shown = asked if len(asked) <= 80 else asked[:80] + "…"
            raise Refused(404, f"There is no model '{shown}' here: this server has '{self.name}'.")

    def asked_memory(self, asked: bool | None) -> TextMemory | None:
        """Return the memory, unless a request leaves it out; Refused where it asks for one that is not here."""
        if asked and self.memory is None:
            raise Refused(422, "This server has no memory of text: leave 'memory' out.")
        return None if asked is False else self.memory

    def asked_steering(self, asked: Mapping[str, float], *, everywhere: bool) -> Steering | None:
        """Return how a text is steered by the run's vectors, None where it is not; Refused for a wrong one."""
        if not asked:
            return None
        try:
            return steering(self.folder, self.model, asked, everywhere=everywhere)
        except UserError as mistake:
            raise Refused(422, str(mistake)) from None


def load_run(folder: Path, memory: bool | None = None) -> ServedRun:
    """Load the run in ``folder``, from its files alone; UserError where it is not a whole run.

    ``memory`` is that of :meth:`weft.Run.generate`.
    """
    opened = Run(folder)
    remembered = opened.asked_memory(memory)
    model = load_model(folder)
    tokenizer = opened.tokenizer
    register()
    name = folder.resolve().name
    # A folder of weights alone, without a recipe, is served too, with the usual separator.
    data = DataConfig(sources=())
    if (folder / RECIPE).is_file():
        data = saved_recipe(folder).data
    return ServedRun(
        folder=folder,
        name=name,
        names=frozenset({name, str(folder), str(folder.resolve())}),
        listing={"id": name, "object": "model", "created": int(time.time()), "owned_by": "weft"},
        model=model,
        tokenizer=tokenizer,
        adapter=_adapter(model),
        # What users send is text, also where it spells a special token: the folder itself says otherwise.
        adapter_tokenizer=AutoTokenizer.from_pretrained(folder, local_files_only=True, split_special_tokens=True),
        separator=data.document_separator,
        memory=remembered,
        facts=_facts(name, model, tokenizer, folder, remembered),
    )


def _adapter(model: WeftModel) -> WeftForCausalLM:
    """Return ``model`` as transformers knows it, with the same parameters, not copies of them.

    Requests that say nothing else draw from the whole distribution, as OpenAI's API has it.
    """
    with torch.device("meta"):  # takes no memory: it is given the model's parameters
        adapter = WeftForCausalLM(WeftConfig.of(model.config))
    assign(adapter, dict(model.named_parameters()))
    adapter.generation_config.update(do_sample=True, temperature=1.0, top_k=0, top_p=1.0)  # type: ignore[no-untyped-call]
    adapter.train(False)
    return adapter


def _facts(
    name: str, model: WeftModel, tokenizer: Tokenizer, folder: Path, memory: TextMemory | None
) -> dict[str, Any]:
    """Return what ``GET /weft/model`` tells."""
    described = describe(model.config)
    test = section(read_run(folder).results, "test")
    return {
        "name": name,
        "pattern": described.pattern,
        "parameters": described.parameters,
        "body_parameters": described.body_parameters,
        "vocab_size": described.vocab_size,
        "tokenizer": tokenizer.kind,
        "test_bits_per_byte": weights_bits(test),
        "test_bits_per_byte_memory": finite(test.get("bits_per_byte_memory")) if memory else None,
        "memory_tokens": memory.tokens if memory else None,
        "depths": model.depth,
        "vectors": vector_names(folder),
        "weft_version": __version__,
    }
