"""The tokenizer that transformers makes of ours."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from weft.data import train_tokenizer

SCRIPTS = [
    "The weaver, the weft; and the warp.",
    "Ruoŧŧa lea stáhta Davvi-Eurohpás.",
    "नमस्ते दुनिया, यह एक परीक्षा है",
    "漢字かな交じり文、テスト。",
    "עברית وعربية ",
    "  two  spaces\n\n\tand 🜀🧶 signs\r\n",
    "<|boundary is text, padding|> too",
]


@pytest.mark.parametrize("kind", ["bytes", "characters", "words", "bpe", "unigram"])
def test_the_fast_tokenizer_begins_with_one_boundary_and_its_offsets_are_right(tmp_path, kind):
    ours = train_tokenizer(kind, ["".join(SCRIPTS).encode() * 3], 330, exact=False)
    ours.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.is_fast
    assert theirs.padding_side == "left"
    for text in SCRIPTS:
        encoded = theirs(text, return_offsets_mapping=True)
        assert set(encoded) == {"input_ids", "attention_mask", "offset_mapping"}
        ids = encoded["input_ids"]
        assert ids == [ours.boundary_id, *ours.encode(text).tolist()]
        assert theirs.decode(ids, skip_special_tokens=True) == text
        end = 0
        for token, (first, last) in list(zip(ids, encoded["offset_mapping"], strict=True))[1:]:
            there, written = text[first:last].encode(), ours.token_bytes(token)
            assert written in there  # less only where a token is a part of a character
            assert there == written or len(there) < len(written) + 6
            assert first <= end <= last
            end = last
        assert end == len(text)
    assert theirs("")["input_ids"] == [ours.boundary_id]
