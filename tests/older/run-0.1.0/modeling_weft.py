"""Where transformers finds the classes of this model: in the installed package `weft`."""

try:
    from weft.hf import WeftConfig, WeftForCausalLM, register
except ImportError as error:
    raise ImportError("This model needs the package 'weft' with 'weft.hf': install or upgrade it.") from error

register()  # the user has trusted this folder: what is loaded next, such as the tokenizer, is not asked about again

__all__ = ["WeftConfig", "WeftForCausalLM"]
