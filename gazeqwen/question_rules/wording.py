"""The words of the questions. Those of the release where they are known (the figure of daeunni/StreamGaze at 07b8a44,
its `pipeline/qa_generation` and the sample in GazeQwen's repository); where ours differ, it says why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

IDENTIFY = "Which object is the user currently gazing at?"
IDENTIFY_RAW = "What is this?"  # the generator's own text; the release has the one above
SEQUENCE = "Which transition best matches the user's gaze pattern?"
# The generator appends the objects looked at last, in brackets: half of an answer in words. The release's figure
# doesn't.
NEXT_ACTION = "Based on recent fixations, what will the user do next?"
ATTRIBUTE_RAW = {
    "color": "What color is this object?",
    "material": "What material is this object made of?",
    "shape": "What shape does this object have?",
    "size": "What is the size of this object?",
    "state": "What is the state of this object?",
    "texture": "What is the texture of this object?",
    "usage": "What is this object typically used for?",
}
_ATTRIBUTE = {
    "color": "What color is the object the user is currently gazing at?",
    "state": "What is the state of the object the user is currently gazing at?",
    "motion": "In which direction did the object the user is currently gazing at just move?",
    "flash": "In which color did the object the user is currently gazing at just flash?",
}
_SPELLING = {"colour": "color"}


def attribute_type(attribute: str) -> str:
    """The generator's name of an attribute."""
    return _SPELLING.get(attribute, attribute)


def ask_attribute(attribute: str) -> str:
    name = attribute_type(attribute)
    return _ATTRIBUTE.get(name, f"What is the {name} of the object the user is currently gazing at?")


def braces(names: Iterable[str], separator: str = ", ") -> str:
    return "{" + separator.join(names) + "}"


def ask_background(group: Sequence[str], *, last: bool) -> str:
    """`last`: says which of several looks is meant, which the release's text leaves open."""
    return f"When the user was {'last ' if last else ''}gazing at the {braces(group)}, " + (
        "which background object was NOT visible?"
    )


def ask_next(group: Sequence[str], *, last: bool) -> str:
    """`last`: as in `ask_background`."""
    return f"What object does the user gaze at next after {'last ' if last else ''}looking at the {braces(group)}?"


def ask_never(options: Sequence[str]) -> str:
    return f"Among {braces(options)}, which did the user never gaze at?"


def sequence_text(groups: Iterable[Sequence[str]]) -> str:
    return ">".join(braces(group, ",") for group in groups)


def sequence_groups(text: str) -> list[list[str]]:
    """Undoes `sequence_text`."""
    return [part.strip("{}").split(",") for part in text.split(">")]


def ask_action_raw(context: Sequence[str]) -> str:
    shown = " → ".join(context)
    return f"Based on the recent fixation pattern ({shown}), what action will the user do next?"


def ask_gaze_alert(target: str) -> str:
    return f"Monitor my gaze and alert me when I gaze on the <{target}>."


def ask_appearance_alert(target: str, *, first: bool) -> str:
    """`first`: the release's text. Without it what is asked is what the test points are labelled with: to be seen now,
    also when it went and came back."""
    return f"Watch the scene and alert me when the <{target}> {'first ' if first else ''}appears."
