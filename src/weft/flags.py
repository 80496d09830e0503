"""The command line's words: what the rest of the package calls by fields of a recipe, a terminal calls by options.

A message says ``data.split`` or ``resume=True``, which is right in Python and in a recipe. On its way to a terminal
:func:`with_flags` makes ``--split`` and ``--resume`` of that, and ``--set data.normalize=nfc`` of a value whose field
has no option of its own. What stands in quotation marks is somebody's own text, and stays.
"""

from __future__ import annotations

import re
import shlex

# The options of fields, as ``weft train`` has them.
OPTIONS = {
    "model.architecture": "--architecture",
    "model.pattern": "--pattern",
    "model.parameters": "--parameters",
    "data.tokenizer": "--tokenizer",
    "data.vocab_size": "--vocab-size",
    "data.validation": "--validation",
    "data.test": "--test",
    "data.split": "--split",
    "data.document_separator": "--document-separator",
    "data.path": "--path",
    "data.text_key": "--text-key",
    "training.minutes": "--minutes",
    "training.steps": "--steps",
    "training.tokens": "--tokens",
    "training.seed": "--seed",
    "training.start.run": "--init-from",
    "training.start.block": "--init-block",
    "training.methods.distillation.run": "--teacher",
}
# The options of arguments of weft.train, which are true where they are given.
SWITCHES = {
    "resume=True": "--resume",
    "overwrite=True": "--overwrite",
    "only=True": "--only",
    "memory=False": "--no-memory",
}

_COMMAND = re.compile(r"weft\.train\(out='(?P<out>[^']*)', resume=True\)")
_REMEMBER = re.compile(r"weft\.remember\('(?P<run>[^']*)'\)")
_SWITCH = re.compile(r"\b(?:(?:resume|overwrite|only)=True|memory=False)\b")
# A field, and its value where it has one; neither in quotation marks, nor in a longer word, nor behind --set already.
_FIELD = re.compile(
    r"(?<!--set )(?<![\w.'\"/])"
    r"(?P<field>(?:model|data|training|memory)(?:\.\w+)+)"
    r"(?:=(?P<value>'[^']*'|[^\s,;)]*[^\s,;).:]))?"
    r"(?![\w'\"/=]| \(was )"
)


def with_flags(sentence: str) -> str:
    """Return ``sentence`` with the options of the command line in place of fields and arguments."""
    sentence = _COMMAND.sub(lambda call: f"weft train --out {shlex.quote(call['out'])} --resume", sentence)
    sentence = _REMEMBER.sub(lambda call: f"weft remember {shlex.quote(call['run'])}", sentence)
    sentence = _SWITCH.sub(lambda switch: SWITCHES[switch[0]], sentence)
    return _FIELD.sub(_option, sentence)


def _option(found: re.Match[str]) -> str:
    """Return the option of a field, with the value that the field has."""
    field = found["field"]
    value = found["value"]
    option = OPTIONS.get(field)
    if value is None:
        return option or field
    return f"{option} {value}" if option else f"--set {field}={value}"
