"""The published evaluations' words, byte for byte, and how generated answers are read."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.streamgaze.wording import (
    STREAMGAZE_GAZE_INSTRUCTION,
    gazeqwen_point_prompt,
    gazeqwen_point_question,
    parse_choice,
    parse_yes_no,
    streamgaze_choice_prompt,
    streamgaze_remind_prompt,
)
from gazeqwen.errors import ConfigError

FOUR = ["A. box", "B. jar", "C. knife", "D. pan"]
GAZE = (
    b"In this video, the green dot represents the gaze point (where the person is looking), and the red circle "
    b"represents the field of view (FOV) area.\n\n"
)


def test_streamgaze_prompts_are_the_published_bytes() -> None:
    asked = b"Which?\nOptions:\nA. box\nB. jar\nC. knife\nD. pan\n"
    told = b"Answer the question with only the letter (A, B, C, or D) of the correct option.\n\nThe best option is:"
    four = b"\nQuestion: " + asked + told
    assert streamgaze_choice_prompt("Which?", FOUR).encode() == four
    assert streamgaze_choice_prompt("Which?", ["box", "jar", "knife", "pan"]).encode() == four
    assert streamgaze_choice_prompt("Which?", FOUR, gaze_drawn=True).encode() == GAZE + four
    two = b"Question: Which?\nOptions:\nA. box\nB. jar\n\nThe best option is:"
    assert streamgaze_choice_prompt("Which?", FOUR[:2]).encode() == two
    three = streamgaze_choice_prompt("Which?", ["box", "jar", "pan"]).encode()
    assert three == b"Question: Which?\nOptions:\nA. box\nB. jar\nC. pan\n\nThe best option is:"
    none = b"\nQuestion: Which?\nAnalyze the video and provide the answer to the question.\n\n\nAnswer:"
    assert streamgaze_choice_prompt("Which?", []).encode() == none
    assert STREAMGAZE_GAZE_INSTRUCTION.encode() == GAZE


def test_options_get_letters_unless_the_first_has_its_own() -> None:
    mixed = streamgaze_choice_prompt("Q", ["A.box", "jar", "knife", "pan"])
    assert "\nA.box\njar\nknife\npan\n" in mixed  # upstream looks at the first option alone
    assert "\nA. a. box\nB. jar\n" in streamgaze_choice_prompt("Q", ["a. box", "jar", "c", "d"])


def test_the_proactive_prompts_are_the_published_bytes() -> None:
    remind = (
        b"You are monitoring a video stream. Based on what you have seen so far in the video, answer the following "
        b"question.\n<video>\n\nQuestion: Alert me.\n\n"
        b'If you have already seen the requested object/event, answer "Yes".\n'
        b'If you have not seen it yet, answer "No".\n\nAnswer only with "Yes" or "No".\n'
        b"Do not include any additional text or explanation in your response.\n"
    )
    assert streamgaze_remind_prompt("Alert me.").encode() == remind
    assert streamgaze_remind_prompt("Alert me.", gaze_drawn=True).encode() == GAZE + remind
    end = b"\nOptions:\nA. Yes\nB. No\n\nThe best option is:"
    shared = b"Question: Alert me. Based on the video so far, should the alert be triggered?" + end
    assert gazeqwen_point_prompt(" Alert me. ", task="GTA").encode() == shared
    gta = (
        b"Question: You are monitoring a user's gaze in a video stream. The user's instruction is: \"Alert me.\" "
        b"Based on the video so far, should the alert be triggered?"
    )
    assert gazeqwen_point_prompt("Alert me.", task="GTA", wording="standalone").encode() == gta + end
    oaa = gta.replace(b"monitoring a user's gaze in a video stream", b"monitoring a video stream")
    assert gazeqwen_point_prompt("Alert me.", task="OAA", wording="standalone").encode() == oaa + end


@settings(deadline=None)
@given(question=st.text(alphabet="{}%\\ ab"))
def test_braces_in_a_question_stay_as_they_are(question: str) -> None:
    for prompt in (streamgaze_remind_prompt(question), streamgaze_choice_prompt(question, FOUR)):
        assert f"Question: {question}\n" in prompt


def test_unknown_wordings_and_forms_are_refused() -> None:
    with pytest.raises(ConfigError, match="shared or standalone"):
        gazeqwen_point_question("q", task="GTA", wording="loud")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="of GTA or OAA"):
        gazeqwen_point_question("q", task="FAP", wording="standalone")
    for parse in (parse_choice, parse_yes_no):
        with pytest.raises(ConfigError, match="strict or fixed"):
            parse("A", form="lenient")  # type: ignore[arg-type]


# (said, strict, fixed): options as in FOUR.
CHOICES = [
    ("C", "C", "C"),
    (" c ", "C", "C"),
    ("C.", "C", "C"),
    ("(c)", "C", "C"),
    ("**C**", "C", "C"),
    ("C. knife", "C", "C"),
    ("The best option is: C", "C", "C"),
    ("I see a knife, so C", "A", "C"),
    ("It's a C", "A", "C"),
    ("A knife. The answer is C.", "A", "C"),
    ("The answer is A because of the box", "A", "A"),
    ("I think A is right", "A", "A"),
    ("option_C", "OPTION_C", "C"),
    ("Not A. The answer is B", "A", "B"),
    ("C. knife\nOption A is wrong", "C", "C"),
    ("C. knife. Option A is not in view.", "C", "C"),
    ("B\n\nThe user looks at a jar. Option A is not there.", "B", "B"),
    ("A. box, because the choice C is a knife", "A", "A"),
    ("A. box is wrong. The correct answer is option B", "A", "B"),
    ("The user is looking at option C, the knife", "C", "C"),
    ("B, not A", "B", "B"),
    ("Not A. B", "A", "B"),
    ("not A", "A", ""),
    ("A or B", "A", ""),
    ("A. box\nB. jar\nC. knife\nD. pan", "A", ""),
    ("knife", "KNIFE", "C"),
    ("the answer is a knife", "A", ""),
    ("E", "E", ""),
    ("I do not know", "I DO NOT KNOW", ""),
    ("", "", ""),
    (None, "", ""),
]


@pytest.mark.parametrize(("said", "strict", "fixed"), CHOICES)
def test_letters_are_read_as_upstream_does_and_as_meant(said: object, strict: str, fixed: str) -> None:
    assert parse_choice(said, FOUR, form="strict") == parse_choice(said, form="strict") == strict
    assert parse_choice(said, FOUR) == fixed


def test_letters_on_offer_are_those_of_the_options() -> None:
    assert parse_choice("E", ["a", "b", "c", "d", "e"]) == "E"
    assert parse_choice("C", ["yes", "no"]) == "" and parse_choice("B. no", ["yes", "no"]) == "B"
    assert parse_choice("same", ["same", "same"]) == ""
    assert parse_choice("I", [*"abcdefghij"]) == "I" and parse_choice("I am sure", [*"abcdefghij"]) == ""


@settings(deadline=None)
@given(letter=st.sampled_from("ABCD"), form=st.sampled_from(["strict", "fixed"]))
def test_every_plain_answer_is_read_alike(letter: str, form: str) -> None:
    option = FOUR["ABCD".index(letter)]
    for said in (letter, f"{letter}.", f"({letter})", option, f"Answer: {letter}", f"The correct option is {letter}."):
        assert parse_choice(said, FOUR, form=form) == letter  # type: ignore[arg-type]


@settings(max_examples=30, deadline=None)
@given(text=st.text(max_size=40), options=st.lists(st.text(min_size=1, max_size=5), min_size=2, max_size=9))
def test_whatever_is_said_is_one_of_the_options_or_nothing(text: str, options: list[str]) -> None:
    found = parse_choice(text, options)
    assert found == "" or found in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(options)]
    assert len(parse_yes_no(text)) <= 1


POINTS = [
    ("Yes", ("Yes",), ("Yes",)),
    (' "no".', ("No",), ("No",)),
    ("The answer is yes.", ("Yes",), ("Yes",)),
    ("No, not yet. (Yes once it appears.)", ("Yes", "No"), ("No",)),
    ("Eyes on the plate", ("Yes",), ()),
    ("Unknown", ("No",), ()),
    ("Not yet", ("No",), ()),
    ("I do not know", ("No",), ()),
    ("yes, no", ("Yes", "No"), ()),
    ("Yes or no", ("Yes", "No"), ()),
    ("It may be yes or no", ("Yes", "No"), ()),
    ("", (), ()),
    (None, ("No",), ()),
]


@pytest.mark.parametrize(("said", "strict", "fixed"), POINTS)
def test_yes_and_no_are_read_as_upstream_does_and_as_meant(
    said: object, strict: tuple[str, ...], fixed: tuple[str, ...]
) -> None:
    assert parse_yes_no(said, form="strict") == strict
    assert parse_yes_no(said) == fixed


def test_reading_answers_loads_no_torch() -> None:
    code = "import sys, benchmarks.streamgaze.wording; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
