"""Edits in the adapter are the native model's."""

from __future__ import annotations

import pytest
import torch

from tests.hf.adapted import LENGTHS, VARIANTS, adapted, error_of, padded, texts
from weft.inside import Edits


def edits_for(model) -> Edits:
    width = model.config.hidden_size
    return Edits(add={1: torch.linspace(-1, 1, width), 2: lambda x_BTD: 0.1 * x_BTD}, added={0: 0.0})


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_an_edited_batch_gives_what_each_text_gives_natively(variant, side):
    native, model = adapted(variant)
    rows = [texts(1, length, seed=length)[0] for length in LENGTHS]
    tokens, mask = padded(rows, side)
    edits = edits_for(native)
    output = model(tokens, attention_mask=mask, edits=edits, output_hidden_states=True)
    for i, row in enumerate(rows):
        expected, _ = native(row[None], edits=edits)
        here = mask[i].bool()
        torch.testing.assert_close(output.logits[i, here], expected[0], rtol=1e-4, atol=1e-4)
        (piece,) = native.trace(row[None], edits=edits, piece=100)
        for depth in range(native.depth):
            seen = output.hidden_states[depth][i, here]
            torch.testing.assert_close(seen, piece.values[f"residual.{depth}"][0], rtol=1e-4, atol=1e-4)
    plain = model(tokens, attention_mask=mask)
    assert not torch.allclose(plain.logits, output.logits)


@torch.no_grad()
def test_a_mask_and_vectors_of_places_move_with_the_padding():
    native, model = adapted()
    rows = [texts(1, length, seed=length)[0] for length in LENGTHS]
    tokens, mask = padded(rows, "right")
    generator = torch.Generator().manual_seed(0)
    where = torch.rand(tokens.shape, generator=generator) < 0.5
    vectors = torch.randn(*tokens.shape, native.config.hidden_size, generator=generator)
    edits = Edits(add={1: vectors}, added={2: vectors}, mask_BT=where)
    output = model(tokens, attention_mask=mask, edits=edits, output_hidden_states=True)
    for i, row in enumerate(rows):
        own = vectors[i : i + 1, : len(row)]
        alone = Edits(add={1: own}, added={2: own}, mask_BT=where[i : i + 1, : len(row)])
        expected, _ = native(row[None], edits=alone)
        torch.testing.assert_close(output.logits[i, : len(row)], expected[0], rtol=1e-4, atol=1e-4)
    error = error_of(lambda: model(tokens[:, :4], edits=edits))
    assert "3 texts of 12 tokens, and 3 of 4 are read" in error


def test_generate_writes_with_edits_and_without_them_afterwards():
    native, model = adapted()
    tokens, mask = padded([texts(1, length, seed=length)[0] for length in LENGTHS], "left")
    how = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": False}
    edits = edits_for(native)
    plain = model.generate(tokens, **how)
    edited = model.generate(tokens, edits=edits, **how)
    again = model.generate(tokens, edits=edits, use_cache=False, **how)
    assert torch.equal(edited, again)
    assert not torch.equal(edited, plain)
    assert torch.equal(model.generate(tokens, **how), plain)


def test_hidden_states_of_an_edited_call_have_gradients():
    native, model = adapted()
    vector_D = torch.zeros(native.config.hidden_size, requires_grad=True)
    output = model(texts(2, 7), edits=Edits(add={1: vector_D}), output_hidden_states=True, labels=texts(2, 7))
    gradients = torch.autograd.grad(output.loss, [vector_D, output.hidden_states[0], output.hidden_states[2]])
    assert all(gradient.abs().sum() > 0 for gradient in gradients)
