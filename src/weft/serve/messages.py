"""The requests that the server understands, checked before any model sees them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from weft.generation import COLDEST, HOTTEST
from weft.serve.limits import Limits, Refused

UPSTREAM_DEFAULT_TOKENS = 1_024  # what transformers' server takes where max_tokens is not given
MOST_STOPS, LONGEST_STOP = 4, 256

Temperature = Annotated[float, Field(ge=0, le=HOTTEST)]
Share = Annotated[float, Field(gt=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=1 << 62)]
StopString = Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]
Stop = StopString | Annotated[list[StopString], Field(max_length=MOST_STOPS)]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ScoreRequest(_Message):
    """``POST /weft/score``: a text to be scored."""

    text: str = Field(min_length=1)


class GenerateRequest(_Message):
    """``POST /weft/generate``: a prompt to go on from; the settings are those of ``weft generate``."""

    prompt: str = ""
    max_new_tokens: int = Field(200, ge=1)
    temperature: Temperature = 0.8
    top_k: int = Field(0, ge=0)
    top_p: Share = 0.95
    seed: Seed = 0
    stop: Stop | None = None
    stream: bool = False


class CompletionRequest(_Message):
    """``POST /v1/completions``: OpenAI's fields; those that transformers' server would ignore must say nothing."""

    model: str | None = None
    prompt: str = ""
    max_tokens: int | None = Field(None, ge=1)
    temperature: Temperature | None = None
    top_p: Share | None = None
    seed: Seed | None = None
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

    def for_upstream(self, name: str, limits: Limits) -> dict[str, Any]:
        """Return the body that transformers' app is given: model and length filled in, the seed left out."""
        fields = {"prompt", "temperature", "top_p", "stream", "stop", "suffix", "frequency_penalty"}
        body = self.model_dump(include=fields, exclude_none=True)
        if self.temperature is not None and self.temperature < COLDEST:
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
    raise Refused(422, _sentence(kind, str(first["loc"][0]), first["type"], first["msg"]))


def _sentence(kind: type[_Message], field: str, fault: str, told: str) -> str:
    if fault == "extra_forbidden":
        return f"'{field}' is not a field of this request: it takes {', '.join(kind.model_fields)}."
    if fault == "missing":
        return f"'{field}' is missing."
    told = told.removeprefix("Input ").removeprefix("String ")
    return f"'{field}' is wrong: it {told[:1].lower()}{told[1:]}."


def check_length(limits: Limits, *, field: str, text: str, tokens_field: str = "", tokens: int = 0) -> None:
    """Raise Refused where a text or the number of tokens asked for is beyond the limits."""
    size = len(text.encode(errors="surrogatepass"))
    if size > limits.text_bytes:
        raise Refused(413, f"'{field}' has {size:,} bytes, but this server takes {limits.text_bytes:,}: send less.")
    if tokens > limits.new_tokens:
        raise Refused(422, f"'{tokens_field}' is {tokens:,}, but this server writes at most {limits.new_tokens:,}.")
