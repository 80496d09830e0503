"""transformers' own OpenAI-compatible application, around one model that is loaded already.

The application, its handlers and its streaming are theirs (``transformers.cli.serving``). Ours is the model
manager, which knows one model and never loads another, and the thread that generates: a seed belongs to one
request instead of to the whole process, and work stops when nobody waits for it any more.
"""

from __future__ import annotations

import asyncio
import inspect
import secrets
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import torch
from starlette.types import ASGIApp
from transformers import PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList
from transformers.cli.serving.chat_completion import ChatCompletionHandler
from transformers.cli.serving.completion import CompletionHandler
from transformers.cli.serving.model_manager import ModelManager
from transformers.cli.serving.response import ResponseHandler
from transformers.cli.serving.server import build_server
from transformers.cli.serving.transcription import TranscriptionHandler
from transformers.cli.serving.utils import GenerateManager, GenerationState
from transformers.utils import logging

# The seed of the request at hand; None draws one. Their own handling would seed the whole process when a
# request comes in, whichever request is generating at that moment.
SEED: ContextVar[int | None] = ContextVar("SEED", default=None)


def openai_app(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, listing: dict[str, Any]) -> ASGIApp:
    """Return transformers' application for ``model``, which it lists as ``listing`` has it."""
    logging.set_verbosity_error()  # type: ignore[no-untyped-call] # theirs warns of every request that it received
    manager = _OneModel(model, tokenizer, listing)
    state = _State()
    offered: dict[str, Any] = {
        "model_manager": manager,
        "chat_handler": ChatCompletionHandler(manager, state),
        "completion_handler": CompletionHandler(manager, state),
        "response_handler": ResponseHandler(manager, state),
        "transcription_handler": TranscriptionHandler(manager, state),
        "generation_state": state,
    }
    # Newer versions have more handlers, for endpoints that Weft does not offer.
    wanted = inspect.signature(build_server).parameters.values()
    required = {parameter.name for parameter in wanted if parameter.default is inspect.Parameter.empty}
    absent: dict[str, Any] = dict.fromkeys(required - offered.keys())
    return build_server(**offered, **absent)


class _OneModel(ModelManager):
    """Knows one model, whatever it is asked for; nothing is looked up, loaded, unloaded or downloaded."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, listing: dict[str, Any]) -> None:
        super().__init__(device="cpu")
        self.force_model = listing["id"]
        self._pair = (model, tokenizer)
        self._listing = listing

    def load_model_and_processor(self, *_: Any, **__: Any) -> Any:
        return self._pair

    @staticmethod
    def process_model_name(model_id: str) -> str:
        return model_id

    def list_models(self, *_: Any) -> list[dict[str, Any]]:
        return [self._listing]

    # The name before transformers 5.24, where theirs scans the hub's cache.
    def get_gen_models(self, *_: Any) -> list[dict[str, Any]]:  # type: ignore[override, unused-ignore]
        return [self._listing]

    def shutdown(self) -> None:
        pass


class _State(GenerationState):
    """Has one thread that generates."""

    def __init__(self) -> None:
        super().__init__()
        self._manager = _Manager()  # type: ignore[no-untyped-call]

    def get_manager(self, *_: Any, **__: Any) -> _Manager:
        return self._manager


class _Manager(GenerateManager):
    """Generates one text after another, each from its document's start and the seed of its request."""

    def generate_streaming(self, model: Any, processor: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        return super().generate_streaming(model, processor, _begun(inputs, processor), *args, **kwargs)

    async def generate_non_streaming(self, model: Any, processor: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        return await super().generate_non_streaming(model, processor, _begun(inputs, processor), *args, **kwargs)

    def submit(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return super().submit(_seeded(fn), *args, **kwargs)

    def async_submit(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run ``model.generate``; cancelling what is returned stops it."""
        left = _Left()
        work = super().async_submit(_seeded(fn), *args, stopping_criteria=StoppingCriteriaList([left]), **kwargs)
        result = asyncio.shield(work)  # their thread cannot hand its result to a future that was cancelled
        result.add_done_callback(lambda _: left.event.set())
        return result


class _Left(StoppingCriteria):
    """Stops a generation that nobody waits for any more."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:  # noqa: ARG002
        return torch.full((len(input_ids),), self.event.is_set(), device=input_ids.device)


def _begun(inputs: Any, tokenizer: PreTrainedTokenizerBase) -> Any:
    """Put the boundary token first, which the tokenizers of older folders did not do by themselves."""
    ids = inputs["input_ids"].long()
    if ids.shape[1] == 0 or int(ids[0, 0]) != tokenizer.bos_token_id:
        inputs["input_ids"] = torch.cat([ids.new_tensor([[tokenizer.bos_token_id]]), ids], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    return inputs


def _seeded(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``fn``, to be run from this request's seed."""
    seed = SEED.get()
    if seed is None:
        seed = secrets.randbits(62)

    def run(*args: Any, **kwargs: Any) -> Any:
        torch.manual_seed(seed)
        return fn(*args, **kwargs)

    return run
