"""What is said to a model under the two published evaluations, byte for byte, and how StreamGaze reads an answer.

    streamgaze_*   daeunni/StreamGaze at 07b8a44, src/benchmark/StreamingBench*_StreamGaze.py and evaluate_results.py
                   (prompts CC-BY-4.0, https://github.com/daeunni/StreamGaze)
    gazeqwen_*     phamtrongthang123/gazeqwen at c3195b1, gazeqwen/data.py and gazeqwen/eval_proactive.py
                   (prompts Apache-2.0, https://github.com/phamtrongthang123/gazeqwen)

Multiple choice in GazeQwen's words is `gazeqwen.prompts.choice_prompt`. No torch here: reports read answers too.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from typing import Literal

from gazeqwen.errors import ConfigError
from gazeqwen.prompts import choice_prompt, letters, strip_letters

Form = Literal["strict", "fixed"]
ProactiveWording = Literal["shared", "standalone"]

STREAMGAZE_GAZE_INSTRUCTION = (
    "In this video, the green dot represents the gaze point (where the person is looking), and the red circle "
    "represents the field of view (FOV) area.\n\n"
)
_STREAMGAZE_REMIND = """You are monitoring a video stream. Based on what you have seen so far in the video, answer the \
following question.
<video>

Question: {}

If you have already seen the requested object/event, answer "Yes".
If you have not seen it yet, answer "No".

Answer only with "Yes" or "No".
Do not include any additional text or explanation in your response.
"""
_GAZEQWEN_CONTEXT = {
    "GTA": "You are monitoring a user's gaze in a video stream.",
    "OAA": "You are monitoring a video stream.",
}


def streamgaze_choice_prompt(question: str, options: Sequence[str], *, gaze_drawn: bool = False) -> str:
    """StreamGaze's user turn of a past or present task.

    Four options get the instruction to answer with a letter, any other number does not, and without options the model
    is told to analyse the video. Letters are put before the options unless the first begins with "A.".

    Args:
        gaze_drawn: the frames carry the overlay (upstream's --use_gaze_instruction): says what dot and circle are.
    """
    prefix = STREAMGAZE_GAZE_INSTRUCTION if gaze_drawn else ""
    if not options:
        return f"{prefix}\nQuestion: {question}\nAnalyze the video and provide the answer to the question.\n\n\nAnswer:"
    lettered = options[0].startswith("A.")
    lines = "\n".join(
        option if lettered else f"{letter}. {option}"
        for letter, option in zip(letters(len(options)), options, strict=True)
    )
    if len(options) == 4:
        told = "Answer the question with only the letter (A, B, C, or D) of the correct option."
        return f"{prefix}\nQuestion: {question}\nOptions:\n{lines}\n{told}\n\nThe best option is:"
    return f"{prefix}Question: {question}\nOptions:\n{lines}\n\nThe best option is:"


def streamgaze_remind_prompt(question: str, *, gaze_drawn: bool = False) -> str:
    """StreamGaze's user turn of a proactive test point. Its `<video>` line is text: the video goes in beside it."""
    return (STREAMGAZE_GAZE_INSTRUCTION if gaze_drawn else "") + _STREAMGAZE_REMIND.format(question)


def streamgaze_prompt(question: str, options: Sequence[str], *, gaze_drawn: bool = False) -> str:
    """StreamGaze's user turn of any sample: a test point is one without options."""
    if options:
        return streamgaze_choice_prompt(question, options, gaze_drawn=gaze_drawn)
    return streamgaze_remind_prompt(question, gaze_drawn=gaze_drawn)


def gazeqwen_point_question(question: str, *, task: str, wording: ProactiveWording = "shared") -> str:
    """A proactive test point as GazeQwen's multiple-choice question; its options are "A. Yes" and "B. No".

    Args:
        task: "GTA" or "OAA"; the stand-alone wording differs between them.
        wording: "shared": its dataset's, used in training and by its `eval.py`; "standalone": `eval_proactive.py`'s.

    Raises:
        ConfigError: another wording, or the stand-alone one for another task.
    """
    if wording == "shared":
        return f"{question.strip()} Based on the video so far, should the alert be triggered?"
    if wording != "standalone" or task not in _GAZEQWEN_CONTEXT:
        raise ConfigError(f"proactive wording: shared or standalone, of GTA or OAA; got {wording!r} of {task!r}")
    return (
        f'{_GAZEQWEN_CONTEXT[task]} The user\'s instruction is: "{question}" '
        "Based on the video so far, should the alert be triggered?"
    )


def gazeqwen_point_prompt(question: str, *, task: str, wording: ProactiveWording = "shared") -> str:
    """GazeQwen's user turn of a proactive test point; "A" means Yes. Raises ConfigError as the question does."""
    return choice_prompt(gazeqwen_point_question(question, task=task, wording=wording), ("A. Yes", "B. No"))


# -- reading what was generated ----------------------------------------------------------------------------------------

_STRICT_LETTER = re.compile(r"\b([ABCD])\b")
_CLAIMED_LETTER = re.compile(
    r"(?:answer(?:\s+is)?|(?:option|choice)(?:\s+is|\s*:))[\s:_*\"'(\[]*(?:option[\s_*\"'(\[]+)?([A-Za-z])(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_MENTIONED_LETTER = re.compile(r"(?:option|choice)[\s_*\"'(\[]+([A-Za-z])(?![A-Za-z0-9])", re.IGNORECASE)
# "C.", "(C)", or a line of its own.
_MARKED_LETTER = re.compile(
    r"(?<![A-Za-z0-9'])(?:[(\[]([A-Za-z])[)\]]|([A-Za-z])[.):](?!\w))|^[^\w\n]*([A-Za-z])[^\w\n]*$", re.MULTILINE
)
_DENIED = re.compile(r"\bnot\s+(?:(?:option|choice)\s+)?\W*$", re.IGNORECASE)
_BARE_LETTER = re.compile(r"(?<![A-Za-z0-9'])([A-Z])(?![A-Za-z0-9'])")
# A word in lower case, but for those that come after a letter and never after an article.
_WORD_FOLLOWS = re.compile(r"\s+(?!(?:is|or|nor|and|but|not|as|because|since)\b)[a-z]")
_YES_OR_NO = re.compile(r"(?<!\w)(yes|no)(?!\w)", re.IGNORECASE)


def parse_choice(text: object, options: Sequence[str] = (), *, form: Form = "fixed") -> str:
    """The option letter that a generated answer names.

    "strict" is StreamGaze's `normalize_answer`: the first lone A to D of the upper-cased text, else that whole text
    ("" for None). An answer is right when this equals the same of the reference. "fixed" is ours: a letter of the
    options on offer, or "" when the answer names none or several. What "strict" gets wrong and "fixed" does not:

    - the article: "I see a knife, so C" and "It's a C" are A;
    - an underscore is part of a word: "option_C" names nothing;
    - letters beyond D are not letters ("E." stays "E.");
    - the first letter wins whatever is said of it: "Not A. The answer is B" is A, "not A" too;
    - an option's own text ("knife" for "C. knife") names nothing.

    Args:
        options: as offered, with or without letters; none means four.
        form: "fixed" or "strict".

    Raises:
        ConfigError: another form.
    """
    _known(form)
    said = "" if text is None else str(text).strip()
    if form == "strict":
        found = _STRICT_LETTER.search(said.upper())
        return found[1] if found else said.upper()
    offered = letters(len(options) or 4)
    bare = said.strip(string.punctuation + string.whitespace)
    if bare.upper() in offered:
        return bare.upper()
    texts = [option.casefold().strip(" .") for option in strip_letters(options)]
    if texts.count(bare.casefold()) == 1:
        return offered[texts.index(bare.casefold())]
    # What says it is the answer goes before what is marked as one, that before an option spoken of ("option A is not in
    # view" explains another answer), and that before a lone capital.
    claimed = [match for match in _CLAIMED_LETTER.finditer(said) if match[1] not in "ai" or not _goes_on(match, said)]
    mentioned = [m for m in _MENTIONED_LETTER.finditer(said) if m[1] not in "ai" or not _goes_on(m, said)]
    lone = [match for match in _BARE_LETTER.finditer(said) if not _is_word(match, said)]
    for group in (claimed, list(_MARKED_LETTER.finditer(said)), mentioned, lone):
        kept = [match for match in group if not _DENIED.search(said, 0, match.start())]
        distinct = {next(filter(None, match.groups())).upper() for match in kept} & set(offered)
        if distinct:
            return distinct.pop() if len(distinct) == 1 else ""
    return ""


def _goes_on(match: re.Match[str], text: str) -> bool:
    """A word comes after the letter that makes it the article "a", or the word "I"."""
    return _WORD_FOLLOWS.match(text, match.end()) is not None


def _is_word(match: re.Match[str], text: str) -> bool:
    """Whether a lone capital is the article at the start of a sentence, or "I"."""
    if not _goes_on(match, text):
        return False
    return match[1] == "I" or (match[1] == "A" and text[: match.start()].rstrip()[-1:] in ("", ".", "!", "?", ":"))


def parse_yes_no(text: object, *, form: Form = "fixed") -> tuple[str, ...]:
    """What a generated answer counts as: of "Yes" and "No", none, one or (strict only) both. A test point is right
    when its answer is among them: `expected in parse_yes_no(text, form=...)`.

    "strict" is StreamGaze's rule, the words as parts of the upper-cased text. "fixed" is ours: the only one of the two
    that is a word of the text; of both, the one it begins with, unless the other comes right after ("yes, no"). What
    "strict" gets wrong and "fixed" does not:

    - "Eyes on the plate" is Yes; "Unknown", "Not yet", "I do not know" and a missing answer (None) are No;
    - "yes, no" is right whatever was expected;
    - "No, not yet. (Yes once it appears)" is right for both.

    Raises:
        ConfigError: another form.
    """
    _known(form)
    if form == "strict":
        said = str(text).upper()
        return tuple(word for word in ("Yes", "No") if word.upper() in said)
    said = "" if text is None else str(text).strip().lstrip(string.punctuation + string.whitespace)
    words = [(match.start(), match[1].capitalize()) for match in _YES_OR_NO.finditer(said)]
    distinct = {word for _, word in words}
    if len(distinct) == 2 and words[0][0] == 0 and not re.match(r"\w+\W+(?:(?:and|or)\s+)?(?:yes|no)\b", said, re.I):
        return (words[0][1],)
    return tuple(distinct) if len(distinct) == 1 else ()


def _known(form: str) -> None:
    if form not in ("strict", "fixed"):
        raise ConfigError(f"form: strict or fixed, got {form!r}")
