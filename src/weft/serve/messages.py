"""The requests that the server understands, checked before any model sees them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from weft.generation import COLDEST, HOTTEST, Precision
from weft.serve.limits import Limits, Refused

UPSTREAM_DEFAULT_TOKENS = 1_024  # what transformers' server takes where max_tokens is not given
MOST_STOPS = 4  # as OpenAI's API has it
LONGEST_STOP = 256  # characters

Temperature = Annotated[float, Field(ge=0, le=HOTTEST)]
FiniteNumber = Annotated[float, Field(allow_inf_nan=False)]
TopP = Annotated[float, Field(gt=0, le=1)]
RequestSeed = Annotated[int, Field(ge=0, lt=1 << 62)]
StopString = Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]
Stop = StopString | Annotated[list[StopString], Field(max_length=MOST_STOPS)]
Prompts = Annotated[list[str], Field(min_length=1, max_length=1)]

# What each field takes, in the words of a refusal: "'seed' must be ...".
TAKES = {
    "best_of": "1 here: for another text, ask again with another seed",
    "echo": "false here: the prompt is not given back",
    "frequency_penalty": "a number above -1 and up to 2",
    "logit_bias": "empty here: tokens cannot be favoured one by one",
    "logprobs": "null here: /weft/generate tells the bits of every token",
    "max_new_tokens": "a whole number, 1 or more",
    "max_tokens": "a whole number, 1 or more",
    "model": "a string",
    "memory": "true (only where the run has a memory), false, or null",
    "n": "1 here: for another text, ask again with another seed",
    "precision": "auto, fp32 or bf16",
    "presence_penalty": "0 here: there is no such penalty",
    "prompt": "one string: ask once for each prompt",
    "seed": "a whole number from 0 to 2^62 - 1",
    "steer": "an object of finite numbers by the names of vectors",
    "steer_range": "generated or all",
    "stop": f"a string, or a list of up to {MOST_STOPS}, each of 1 to {LONGEST_STOP} characters",
    "stream": "true or false",
    "stream_options": "an object",
    "suffix": "a string",
    "temperature": f"a number from 0 to {HOTTEST:g}",
    "text": "a string that is not empty",
    "top_k": "a whole number, 0 or more",
    "top_p": "a number above 0 and up to 1",
    "user": "a string",
}


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ScoreRequest(_Message):
    """``POST /weft/score``: a text to be scored."""

    text: str = Field(min_length=1)
    memory: bool | None = None


class GenerateRequest(_Message):
    """``POST /weft/generate``: a prompt to go on from; the settings are those of ``weft generate``."""

    prompt: str = ""
    max_new_tokens: int = Field(200, ge=1)
    temperature: Temperature = 0.8
    top_k: int = Field(0, ge=0)
    top_p: TopP = 0.95
    seed: RequestSeed = 0
    stop: Stop | None = None
    precision: Precision = "auto"
    memory: bool | None = None
    steer: dict[str, FiniteNumber] = Field(default_factory=dict)  # multipliers by the names of vectors
    steer_range: Literal["generated", "all"] = "generated"
    stream: bool = False


class CompletionRequest(_Message):
    """``POST /v1/completions``: OpenAI's fields; those that transformers' server would ignore must say nothing."""

    model: str | None = None
    prompt: str | Prompts = ""
    max_tokens: int | None = Field(None, ge=1)
    temperature: Temperature | None = None
    top_p: TopP | None = None
    seed: RequestSeed | None = None
    stream: bool | None = None
    stop: Stop | None = None
    suffix: str | None = None
    frequency_penalty: float | None = Field(None, gt=-1, le=2)
    # Not served; a value that asks for nothing is let through.
    n: Literal[1] | None = None
    best_of: Literal[1] | None = None
    echo: Literal[False] | None = None
    logprobs: None = None
    presence_penalty: float | None = Field(None, ge=0, le=0)
    logit_bias: dict[str, float] | None = Field(None, max_length=0)
    stream_options: dict[str, Any] | None = None
    user: str | None = None

    @property
    def text(self) -> str:
        """The one prompt, whether it came by itself or as a list (as LangChain sends it)."""
        return self.prompt if isinstance(self.prompt, str) else self.prompt[0]

    def for_upstream(self, name: str, limits: Limits) -> dict[str, Any]:
        """Return the body that transformers' app is given: model and length filled in, the seed left out."""
        fields = {"temperature", "top_p", "stream", "suffix", "frequency_penalty"}
        body = self.model_dump(include=fields, exclude_none=True) | {"prompt": self.text}
        if self.stop:  # theirs fails at an empty list
            body["stop"] = self.stop
        if self.temperature is not None and self.temperature < COLDEST:  # dividing by it would overflow
            body["temperature"] = 0.0
        tokens = self.max_tokens or min(UPSTREAM_DEFAULT_TOKENS, limits.new_tokens)
        return body | {"model": name, "max_tokens": tokens}


Message = TypeVar("Message", bound=_Message)


def parse(kind: type[Message], body: bytes) -> Message:
    """Read a body as ``kind``; Refused with 400 where it is not JSON, with 422 where a field is wrong."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        raise Refused(
            400,
            "The body is not JSON, or not all of it is valid Unicode: send an object with the fields of this request.",
        )
    if not first["loc"]:
        raise Refused(422, "The body must be a JSON object.")
    raise Refused(422, _sentence(kind, str(first["loc"][0]), first["type"]))


def _sentence(kind: type[_Message], field: str, fault: str) -> str:
    if fault == "extra_forbidden":
        return f"'{field}' is not a field of this request: it takes {', '.join(kind.model_fields)}."
    if fault == "missing":
        return f"'{field}' is missing: it must be {TAKES[field]}."
    return f"'{field}' must be {TAKES[field]}."


def check_length(limits: Limits, *, field: str, text: str, tokens_field: str = "", tokens: int = 0) -> None:
    """Raise Refused where a text or the number of tokens asked for is beyond the limits."""
    size = len(text.encode(errors="surrogatepass"))
    if size > limits.text_bytes:
        raise Refused(413, f"'{field}' has {size:,} bytes, but this server takes {limits.text_bytes:,}: send less.")
    if tokens > limits.new_tokens:
        raise Refused(422, f"'{tokens_field}' is {tokens:,}, but this server writes at most {limits.new_tokens:,}.")
