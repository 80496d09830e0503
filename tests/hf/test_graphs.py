"""Graphs of the adapter with an attention mask: compiled without a break, exported, and in ONNX."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.hf.adapted import LENGTHS, adapted, padded, texts

KINDS = ["shared", "attention", "bigrams"]


def batch(side: str = "left") -> dict[str, torch.Tensor]:
    tokens, mask = padded([texts(1, length, seed=length)[0] for length in LENGTHS], side)
    return {"input_ids": tokens, "attention_mask": mask}


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_it_compiles_without_a_break_and_goes_on_from_a_cache(kind):
    torch._dynamo.reset()
    _, model = adapted(kind)
    inputs = batch()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    plain, found = model(**inputs), compiled(**inputs)
    torch.testing.assert_close(found.logits, plain.logits, atol=1e-4, rtol=1e-4)
    step = {
        "input_ids": inputs["input_ids"][:, :1],
        "attention_mask": torch.cat([inputs["attention_mask"], torch.ones(3, 1, dtype=torch.long)], dim=1),
    }
    expected = model(**step, past_key_values=plain.past_key_values).logits
    goes_on = compiled(**step, past_key_values=found.past_key_values)
    torch.testing.assert_close(goes_on.logits, expected, atol=1e-4, rtol=1e-4)
    assert goes_on.past_key_values.seen == max(LENGTHS) + 1


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_it_is_exported_with_a_mask_for_batches_of_another_padding(side):
    _, model = adapted("shared")
    inputs = batch(side) | {"use_cache": False}
    program = torch.export.export(model, (), inputs).module()
    for other in (inputs, batch("right" if side == "left" else "left") | {"use_cache": False}):
        torch.testing.assert_close(program(**other).logits, model(**other).logits, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_it_is_exported_for_any_length():
    _, model = adapted("qrnn")
    rows, time = torch.export.Dim("rows", min=2, max=64), torch.export.Dim("time", min=3, max=512)
    dims = {"input_ids": {0: rows, 1: time}, "attention_mask": {0: rows, 1: time}, "use_cache": None}
    program = torch.export.export(model, (), batch() | {"use_cache": False}, dynamic_shapes=dims).module()
    tokens = texts(2, 40)
    mask = torch.ones_like(tokens)
    mask[1, :7] = 0
    inputs = {"input_ids": tokens, "attention_mask": mask, "use_cache": False}
    torch.testing.assert_close(program(**inputs).logits, model(**inputs).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore")  # of the exporter, about itself
@torch.no_grad()
def test_transformers_own_exporters_take_it_with_its_cache():
    exporter = pytest.importorskip("transformers.exporters.exporter_dynamo")
    utils = pytest.importorskip("transformers.exporters.utils")
    _, model = adapted("bigrams")
    parts = utils.decompose_for_generation(model, dict(batch()))
    assert set(parts) == {"prefill", "decode"}
    for part, inputs in parts.values():
        expected = part(**copy.deepcopy(inputs)).logits
        exported = exporter.DynamoExporter().export(part, inputs, config=exporter.DynamoConfig())
        if isinstance(exported, torch.export.ExportedProgram):  # transformers 5.17
            exported = exported.module()
        logits = exported(**copy.deepcopy(inputs))["logits"]
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore")  # of the exporter, about itself
@torch.no_grad()
def test_transformers_onnx_exporter_knows_the_recurrence():
    pytest.importorskip("onnxscript")
    exporter = pytest.importorskip("transformers.exporters.exporter_onnx")
    _, model = adapted("qrnn")
    inputs = batch()
    expected = model(**inputs).logits
    exported = exporter.OnnxExporter().export(model, dict(inputs), config=exporter.OnnxConfig())
    found = exported(**inputs)
    if isinstance(found, tuple):  # transformers 5.17 gives outputs no names
        found = {"logits": found[0]}
    torch.testing.assert_close(torch.as_tensor(found["logits"]), expected, atol=1e-4, rtol=1e-4)
