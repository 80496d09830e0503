"""The loss: the same for a text wherever padding stands, alone or in a batch, in one step or accumulated."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, DataCollatorWithFlattening, Trainer, TrainingArguments

from tests.hf.adapted import BOUNDARY, LENGTHS, PADDING, adapted, padded, texts
from weft.errors import UserError


def rows() -> list[Tensor]:
    return [texts(1, length, seed=length)[0] for length in LENGTHS]


def scattered(parts: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return texts with padding before, between and after their tokens, and the mask."""
    time = 2 * max(map(len, parts)) + 1
    tokens, mask = torch.full((len(parts), time), PADDING), torch.zeros(len(parts), time, dtype=torch.long)
    for i, part in enumerate(parts):
        places = torch.randperm(time, generator=torch.Generator().manual_seed(i))[: len(part)].sort().values
        tokens[i, places], mask[i, places] = part, 1
    return tokens, mask


def sums_alone(model) -> tuple[Tensor, int]:
    """Return the sum of all texts' nats, each read alone, and the number of tokens that are predicted."""
    nats = [model(part[None], labels=part[None]).loss * (len(part) - 1) for part in rows()]
    return torch.stack(nats).sum(), sum(len(part) - 1 for part in rows())


@pytest.mark.parametrize("labelled", ["tokens", "all"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_has_no_part_in_the_loss_on_either_side(side, labelled):
    _, model = adapted()
    tokens, mask = padded(rows(), side)
    labels = tokens if labelled == "all" else tokens.masked_fill(mask == 0, -100)
    nats, count = sums_alone(model)
    torch.testing.assert_close(model(tokens, attention_mask=mask, labels=labels).loss, nats / count)
    told = model(tokens, attention_mask=mask, labels=labels, num_items_in_batch=torch.tensor(4 * count)).loss
    torch.testing.assert_close(told, nats / count / 4)


def test_nothing_is_predicted_from_padding_between_tokens():
    _, model = adapted()
    tokens, mask = scattered(rows())
    output = model(tokens, attention_mask=mask, labels=tokens)
    scored = (mask[:, 1:] & mask[:, :-1]).bool()
    expected = F.cross_entropy(output.logits[:, :-1][scored], tokens[:, 1:][scored])
    torch.testing.assert_close(output.loss, expected)


def test_gradients_accumulated_over_batches_padded_otherwise_are_those_of_each_text_alone():
    _, model = adapted()

    def gradients(batches) -> dict[str, Tensor]:
        model.zero_grad()
        count = sum(len(part) - 1 for part in rows())
        for tokens, mask in batches:
            model(tokens, attention_mask=mask, labels=tokens, num_items_in_batch=count).loss.backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    alone = gradients([(part[None], torch.ones_like(part[None])) for part in rows()])
    for side in ("left", "right"):
        for batches in ([padded(rows(), side)], [padded(rows()[:2], side), padded(rows()[2:], side)]):
            for name, gradient in gradients(batches).items():
                torch.testing.assert_close(gradient, alone[name], atol=1e-5, rtol=1e-4)


def test_texts_packed_with_a_boundary_at_both_ends_do_not_teach_that_a_text_is_empty():
    """As trl's packing "wrapped" lays them: the end of one text, then the beginning of the next."""
    _, model = adapted()
    ends = [ended(part) for part in rows()]
    packed = torch.cat(ends)[None]
    nats = [model(part[None], labels=part[None]).loss * (len(part) - 1) for part in ends]
    expected = torch.stack(nats).sum() / sum(len(part) - 1 for part in ends)
    torch.testing.assert_close(model(packed, labels=packed).loss, expected)


def ended(part: Tensor) -> Tensor:
    return torch.cat([part, torch.tensor([BOUNDARY])])


def test_the_mask_of_a_piece_after_others_is_read_from_its_end():
    _, model = adapted()
    tokens, mask = padded(rows(), "left")
    cache = model(tokens[:, :6], attention_mask=mask[:, :6], use_cache=True).past_key_values
    piece = model(tokens[:, 6:], attention_mask=mask, past_key_values=cache, labels=tokens[:, 6:])
    scored = mask[:, 6:-1].bool()
    expected = F.cross_entropy(piece.logits[:, :-1][scored], tokens[:, 7:][scored])
    torch.testing.assert_close(piece.loss, expected)


def test_labels_may_be_shifted_already():
    _, model = adapted()
    tokens = texts(2, 9)
    shifted = F.pad(tokens[:, 1:], (0, 1), value=-100)
    plain = model(tokens, labels=tokens).loss
    assert torch.equal(model(tokens, shift_labels=shifted).loss, plain)
    assert torch.equal(model(tokens, labels=tokens, shift_labels=shifted).loss, plain)
    with pytest.raises(UserError, match="shift_labels hold 300, but"):
        model(tokens, shift_labels=shifted * 0 + 300)


@pytest.mark.parametrize("told", ["position_ids", "seq_idx", "cu_seq_lens_q"])
def test_a_flattened_batch_costs_what_its_texts_cost(told):
    _, model = adapted()
    parts = [part[1:] for part in rows() if len(part) > 4]  # no boundary, which resets by itself
    collator = DataCollatorWithFlattening(return_flash_attn_kwargs=True, return_seq_idx=True)
    batch = collator([{"input_ids": part.tolist()} for part in parts])
    kept = {"input_ids", "labels", "max_length_q", told}
    output = model(**{name: value for name, value in batch.items() if name in kept})
    alone = torch.cat([model(part[None]).logits for part in parts], dim=1)
    torch.testing.assert_close(output.logits, alone, atol=1e-4, rtol=1e-4)
    nats = sum(model(part[None], labels=part[None]).loss * (len(part) - 1) for part in parts)
    torch.testing.assert_close(output.loss, nats / sum(len(part) - 1 for part in parts))


def test_an_argument_that_nobody_knows_is_told():
    _, model = adapted()
    with pytest.raises(UserError, match="does not know 'attention_masks': did you mean 'attention_mask'"):
        model(texts(2, 5), attention_masks=torch.ones(2, 5))


def test_trainer_knows_what_the_class_predicts_however_it_was_reached():
    """Without register(): else label smoothing scores each token against itself, without a word."""
    told = subprocess.run(
        [sys.executable, "-c", "import weft.hf.modeling\n" + KNOWN], capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == ["WeftForCausalLM"]


KNOWN = """
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
print(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["weft"])
"""


def test_where_nothing_is_to_be_predicted_the_loss_is_zero(run):
    model = AutoModelForCausalLM.from_pretrained(run)
    tokens = torch.full((1, 2), BOUNDARY)
    assert model(tokens, labels=tokens).loss.item() == 0


def test_label_smoothing_scores_the_next_token(run, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(run)
    arguments = TrainingArguments(str(tmp_path), label_smoothing_factor=0.1, report_to="none", use_cpu=True)
    trainer = Trainer(model=model, args=arguments)
    tokens = texts(2, 12)
    assert int(tokens[0, 0]) == BOUNDARY
    with torch.no_grad():
        smoothed = trainer.compute_loss(model, {"input_ids": tokens, "labels": tokens})
        expected = F.cross_entropy(model(tokens).logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        spread = -model(tokens).logits[:, :-1].log_softmax(-1).mean()
    torch.testing.assert_close(smoothed, 0.9 * expected + 0.1 * spread)
