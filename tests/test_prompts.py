"""Prompts as published, byte for byte; options and how they are scored."""

from __future__ import annotations

import json
import math
import string
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gazeqwen import prompts
from gazeqwen.errors import InputError
from gazeqwen.tiny import tiny_tokenizer
from gazeqwen.tiny.model import SPECIAL_TOKENS
from tests.conftest import shared_dir

WORD = st.text(string.ascii_lowercase + " ", min_size=1).map(str.strip).filter(bool)


def test_multiple_choice_is_the_published_wording() -> None:
    expected = "Question: Which?\nOptions:\nA. box\nB. jar\n\nThe best option is:"
    assert prompts.choice_prompt("Which?", ["box", "jar"]) == expected
    assert prompts.choice_prompt("Which?", ["A. box", "B. jar"]) == expected
    odd = prompts.choice_prompt("Q", [" a. box", "b) jar", "C.pan ", "T. rex"])
    assert odd == "Question: Q\nOptions:\na. box\nB. b) jar\nC.pan\nD. T. rex\n\nThe best option is:"


def test_multiple_choice_equals_golden_02() -> None:
    record = json.loads(shared_dir("golden", "02_gazeqwen_clip_rules.json").read_text())
    assert record["mcq_prompts"]
    for case in record["mcq_prompts"]:
        assert prompts.choice_prompt(case["question"], case["options"]) == case["prompt"]


@given(st.lists(WORD, min_size=2, max_size=26))
def test_letters_are_taken_off_only_where_all_options_carry_theirs(options: list[str]) -> None:
    lettered = [f"{letter}. {option}" for letter, option in zip(string.ascii_uppercase, options, strict=False)]
    assert prompts.strip_letters(options) == options
    assert prompts.strip_letters(lettered) == options
    assert prompts.strip_letters([*lettered[:-1], options[-1]]) == [*lettered[:-1], options[-1]]
    assert prompts.choice_prompt("Q", lettered) == prompts.choice_prompt("Q", options)


def test_an_option_that_only_looks_lettered_stays_whole() -> None:
    assert prompts.strip_letters(["T. rex", "a lion"]) == ["T. rex", "a lion"]
    assert prompts.strip_letters(["A.", "B."]) == ["A.", "B."]


def test_no_prompt_but_the_gaze_text_mentions_gaze() -> None:
    said = [
        prompts.choice_prompt("Q", ["a", "b"]),
        prompts.open_prompt("Q"),
        prompts.yes_no_prompt("Q"),
        prompts.PREFIX,
    ]
    assert not any("gaze" in text.lower() for text in said)
    text = prompts.gaze_text([(1.04, 0.25, 0.5), (2.0, 1.0, 0.0)])
    assert "1.0 s: (0.25, 0.50); 2.0 s: (1.00, 0.00)" in text
    assert prompts.gaze_text([]) == "No gaze was recorded."


def test_letters_have_tokens_of_their_own() -> None:
    ids = prompts.letter_ids(tiny_tokenizer(), 26)
    assert [tiny_tokenizer().decode([i]) for i in ids] == list(string.ascii_uppercase)
    clumsy = SimpleNamespace(encode=lambda text, add_special_tokens: [7])
    with pytest.raises(InputError, match="distinct token"):
        prompts.letter_ids(clumsy, 2)


def test_letters_are_normalised_over_the_offered_ones_in_float32() -> None:
    logits = torch.zeros(10, dtype=torch.bfloat16)
    logits[3], logits[9] = 1.0, 50.0  # 9 is not offered
    found = prompts.option_logprobs_from_letters(logits, [3, 4])
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx([-math.log(1 + math.exp(-1)), -1 - math.log(1 + math.exp(-1))])


def test_likelihood_is_the_sum_over_tokens() -> None:
    found = prompts.option_logprobs_from_likelihood([torch.tensor([-1.0, -2.0]), torch.tensor([-3.0])])
    assert found.tolist() == pytest.approx([math.log(0.5)] * 2)


@given(st.text())
def test_the_tiny_tokenizer_gives_any_text_back(text: str) -> None:
    tokenizer = tiny_tokenizer()
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_the_tiny_tokenizer_has_qwens_special_tokens_and_common_words() -> None:
    tokenizer = tiny_tokenizer()
    assert [tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS] == list(range(len(SPECIAL_TOKENS)))
    for token in (prompts.VISION_START, prompts.VISION_END, prompts.VIDEO_PAD, prompts.TURN_END):
        assert len(tokenizer.encode(token, add_special_tokens=False)) == 1
    for word in ("knife", " knife", "Yes", "No"):
        assert len(tokenizer.encode(word, add_special_tokens=False)) == 1
