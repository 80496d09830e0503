"""Low floors name fields; the command line says its options. Nobody else speaks of flags."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

import weft
from weft.cli import app
from weft.flags import OPTIONS, SWITCHES, with_flags
from weft.training.recipe import TrainingConfig, make_recipe

SOURCE = Path(weft.__file__).parent
FLAG = re.compile(r"(?<![\w-])--[a-z]")
# Who may name flags: the command line itself, and pages and runners that write commands down.
COMMAND_LINE = (
    "cli/",
    "terminal.py",
    "demo.py",
    "flags.py",
    "reports/",
    "experiments/jobs.py",
    "experiments/runner.py",
)
# Flags of others' programs.
OTHERS = {
    "ops/cpu/__init__.py": ("pip install --upgrade",),
    "pretrained.py": ("pip install --upgrade",),
    "training/recipe.py": ("--format=%h", "--abbrev=12", "--error-unmatch"),
}


def sentences(tree: ast.Module) -> Iterator[str]:
    """Yield the strings of a module that are no docstrings."""
    docstrings = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            docstrings.add(node.value)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings:
            yield node.value


def test_no_message_below_the_command_line_names_a_flag():
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        if name.startswith(COMMAND_LINE):
            continue
        for text in sentences(ast.parse(path.read_text(encoding="utf-8"))):
            known = any(other in text for other in OTHERS.get(name, ()))
            if FLAG.search(text) and not known:
                found.append(f"{name}: {text!r}")
    assert not found, "name the field; weft.flags makes the option of it:\n" + "\n".join(found)


def test_the_test_sees_flags_and_not_docstrings():
    seen = list(
        sentences(ast.parse('"""Of --out."""\ndef f():\n    """Of --in."""\n    return f"give --{x} or --out"'))
    )
    assert [bool(FLAG.search(text)) for text in seen] == [False, True]


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("Look at how the text is split (data.split).", "Look at how the text is split (--split)."),
        ("give more text, or data.validation and data.test.", "give more text, or --validation and --test."),
        ("train with data.tokenizer=bytes, which takes any.", "train with --tokenizer bytes, which takes any."),
        ("data.normalize=nfc makes them one.", "--set data.normalize=nfc makes them one."),
        ("give it, such as model.pattern='[qf]3'.", "give it, such as --pattern '[qf]3'."),
        ("add resume=True, or overwrite=True to replace it", "add --resume, or --overwrite to replace it"),
        ("resume=True and training.minutes=12.", "--resume and --minutes 12."),
        ("go on with: weft.train(out='runs/a b', resume=True)", "go on with: weft train --out 'runs/a b' --resume"),
        ("make it anew with weft.remember('runs/a b')", "make it anew with weft remember 'runs/a b'"),
        ("go on without it (memory=False)", "go on without it (--no-memory)"),
        ("memory.enabled=false leaves it out", "--set memory.enabled=false leaves it out"),
        ("training.start.run takes the model of 'x' as it is", "--init-from takes the model of 'x' as it is"),
        ("by training.start.block=best.", "by --init-block best."),
        # What has no option, what is quoted, and what is part of something longer stays.
        (
            "a lower training.optimizer.learning_rate, such as 1e-3",
            "a lower training.optimizer.learning_rate, such as 1e-3",
        ),
        ("'data.split' is 'pages'", "'data.split' is 'pages'"),
        ("'/home/data.split/model.parameters'", "'/home/data.split/model.parameters'"),
        ("this changed: training.seed (was 0, now 5)", "this changed: training.seed (was 0, now 5)"),
        ("--set data.split=bytes", "--set data.split=bytes"),
        (
            "--set takes 'section.key=value', such as 'data.split=tail'",
            "--set takes 'section.key=value', such as 'data.split=tail'",
        ),
    ],
)
def test_a_message_reaches_a_terminal_in_the_words_of_the_command_line(said, shown):
    assert with_flags(said) == (shown or said)


def options_of(command: str) -> set[str]:
    """Return the options that a command has."""
    group = typer.main.get_command(app)
    return {
        name for parameter in group.commands[command].params for name in (*parameter.opts, *parameter.secondary_opts)
    }


def test_every_option_of_the_table_is_there_and_every_field_too():
    assert set(OPTIONS.values()) <= options_of("train")
    commands = ("train", "evaluate", "remember")
    assert set(SWITCHES.values()) <= set().union(*map(options_of, commands))
    recipe = make_recipe()
    for field in OPTIONS:
        if field.startswith("training.methods."):
            method = field.split(".")[2]
            assert TrainingConfig(methods={method: {"run": "x"}}).methods[method].run == "x"
            continue
        value: object = recipe
        for part in field.split("."):
            assert part in type(value).model_fields, field
            value = getattr(value, part)
