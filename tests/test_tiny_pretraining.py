"""Pre-training on symbols: what is asked, how it is laid out, and that a run is what its settings say."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from benchmarks.tiny import language
from benchmarks.tiny import symbol_worlds as kept_worlds
from benchmarks.tiny.language import make_language
from benchmarks.tiny.lessons import PROBES, TOLD_AFTER, Lesson, Lessons
from benchmarks.tiny.pretraining import (
    CHOSEN_SHARES,
    PROBE_SHARES,
    TASK_SHARES,
    Drawer,
    Mix,
    PretrainingSettings,
    SymbolReader,
    evaluate,
    init_language,
    matched_rows,
    pretrain,
)
from benchmarks.tiny.seeing import SeenWorlds
from benchmarks.tiny.symbol_rows import Placed, symbol_row
from benchmarks.tiny.symbol_worlds import SymbolQuestion, SymbolWorld, make_symbol_world, symbol_worlds
from gazeqwen.backbone import Backbone
from gazeqwen.errors import ConfigError, InputError
from gazeqwen.frozen import Frozen
from gazeqwen.model import GazeQwen
from gazeqwen.question_rules import TASK_NAMES
from gazeqwen.tiny import TINY_CONFIG, build_tiny_vlm, tiny_tokenizer
from gazeqwen.tiny.symbols import content, symbol_table
from gazeqwen.tiny.world import PRETRAINING_SEEDS, World
from gazeqwen.tiny.world_events import STATES
from gazeqwen.tiny.world_sprites import COLOURS, NOUNS
from gazeqwen.train.examples import Ask, TrainingVideo
from gazeqwen.train.forward import PackedForward
from gazeqwen.types import GazeEvents, Question, Step, blank_frames
from stream.world_recording import WorldRecording

SHORT = PretrainingSettings(
    steps=4,
    mixes=(Mix(0.25, recall=1.0), Mix(0.5, probe=1.0), Mix(1.0, name=1.0, brief=1.0, question=1.0)),
    probe_steps=6,
    question_steps=12,
    row_tokens={"name": 500, "recall": 500, "probe": 500, "brief": 500, "question": 800},
)


@pytest.fixture(scope="module")
def lessons() -> Lessons:
    return Lessons(tiny_tokenizer())


@pytest.fixture(scope="module")
def worlds() -> list[SymbolWorld]:
    return [make_symbol_world(PRETRAINING_SEEDS + index, per_task=3, duration_s=24.0) for index in range(4)]


def text(lesson: Lesson, stop: int | None = None) -> str:
    return str(tiny_tokenizer().decode(list(lesson.ids[:stop])))


# --- worlds -----------------------------------------------------------------------------------------------------------


def test_a_world_is_asked_what_its_steps_show(worlds: list[SymbolWorld]) -> None:
    asked = {item.task for world in worlds for item in world.questions}
    assert asked <= set(TASK_NAMES) and len(asked) > 7
    for world in worlds:
        assert world.whole <= len(world.seconds) == len(world.symbols.thing)
        for item in world.questions:
            assert 0 <= item.first <= item.stop <= world.whole
            assert item.tail is None or world.whole <= item.tail < len(world.seconds)
            if item.tail is not None and item.stop:
                assert world.seconds[item.tail] > world.seconds[item.stop - 1]


def test_looks_follow_the_log(worlds: list[SymbolWorld]) -> None:
    """Every look of 0.6 s or more within the whole steps is among them, in order; neighbours at one object are one."""
    for world in worlds:
        truth = World.make(world.seed, duration_s=24.0)
        long = [
            truth.names.index(e.gazed)
            for e in truth.log.episodes
            if e.gazed and e.stop_s - e.start_s > 0.6 and e.stop_s < world.seconds[world.whole - 1]
        ]
        different = [thing for k, thing in enumerate(long) if k == 0 or thing != long[k - 1]]
        found = iter(thing for _, thing in world.looks)
        assert all(thing in found for thing in different)


def test_worlds_are_kept_and_made_again_where_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_worlds, "SHARD", 2)
    seeds = [PRETRAINING_SEEDS + 50, PRETRAINING_SEEDS + 51, PRETRAINING_SEEDS + 52]
    symbol_worlds(seeds, per_task=1, folder=tmp_path, processes=1)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) == 2
    files[0].write_bytes(files[0].read_bytes()[:1000])
    untouched = files[1].stat().st_mtime_ns
    again = symbol_worlds(seeds, per_task=1, folder=tmp_path, processes=1)
    assert files[1].stat().st_mtime_ns == untouched and sorted(tmp_path.glob("*")) == files
    for seed, found in zip(seeds, again, strict=True):
        made = make_symbol_world(seed, per_task=1)
        assert (made.seed, made.duration_s, made.whole, made.questions, made.looks) == (
            found.seed,
            found.duration_s,
            found.whole,
            found.questions,
            found.looks,
        )
        np.testing.assert_array_equal(made.symbols.age_s, found.symbols.age_s)
        np.testing.assert_array_equal(made.frame_times_s, found.frame_times_s)
    symbol_worlds(seeds[1:], per_task=1, folder=tmp_path, processes=1)  # other worlds are another file
    assert len(list(tmp_path.glob("*"))) == 3


def test_a_worker_that_fails_is_heard(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InputError, match="room to write"):
        symbol_worlds([PRETRAINING_SEEDS], per_task=1, folder=tmp_path / "file", processes=1)


# --- lessons ----------------------------------------------------------------------------------------------------------


def test_probes_tell_the_truth(lessons: Lessons, worlds: list[SymbolWorld]) -> None:
    rng, seen = np.random.default_rng(0), set()
    yes, no = lessons.yes, lessons.no
    for world in worlds:
        nouns = [lessons.nouns[noun] for noun in world.symbols.noun]
        for kind in PROBES:
            for stop in range(2, world.whole, 3):
                lesson = lessons.probe(world, stop, kind, rng)
                if lesson is None:
                    continue
                seen.add(kind)
                said = lesson.choices[lesson.right]
                assert lesson.targets[0].token == said
                gazed = [thing for step, thing in world.looks if step < stop]
                named = [thing for thing, noun in enumerate(nouns) if noun in lesson.ids]
                if kind == "now":
                    assert said == nouns[gazed[-1]]
                if kind == "next":
                    pairs = [(a, b) for a, b in pairwise(gazed) if a == named[0]]
                    assert said == nouns[pairs[-1][1]]
                if kind == "ever":
                    assert said == (yes if named[0] in gazed else no)
                if kind == "appears":
                    assert said == (yes if world.symbols.visible[stop - 1, named[0]] else no)
                if kind in ("colour", "state") and seen_alone(world, stop, gazed[-1]):
                    told = (
                        list(COLOURS)[world.symbols.colour[gazed[-1]]]
                        if kind == "colour"
                        else STATES[world.symbols.state[stop - 1, gazed[-1]]]
                    )
                    assert tiny_tokenizer().decode([said]) == told
                if kind == "colour-of":
                    assert tiny_tokenizer().decode([said]) == list(COLOURS)[world.symbols.colour[named[0]]]
                if kind == "is-now":
                    assert said == (yes if named[0] == gazed[-1] else no)
                if kind == "first":
                    assert said == nouns[gazed[0]]
                if kind == "behind":
                    step = max(step for step in range(stop) if world.symbols.dwell_s[step, named_in(lesson, nouns, 0)])
                    there = world.symbols.visible[step, named_in(lesson, nouns, 1)]
                    assert said == (yes if there else no)
                if kind == "order":
                    assert [target.token for target in lesson.targets] == [nouns[thing] for thing in gazed[-3:]]
                if kind == "never":
                    thing = nouns.index(said)
                    assert thing not in gazed and world.symbols.visible[:stop, thing].any()
                if kind == "absent":
                    looked = named_in(lesson, nouns, 0)
                    step = max(step for step in range(stop) if world.symbols.dwell_s[step, looked])
                    there = [world.symbols.visible[step, nouns.index(noun)] for noun in lesson.choices]
                    assert [noun for noun, seen_then in zip(lesson.choices, there, strict=True) if not seen_then] == [
                        said
                    ]
    assert seen == set(PROBES) == {*PROBE_SHARES, *CHOSEN_SHARES}


def seen_alone(world: SymbolWorld, stop: int, thing: int) -> bool:
    """Gaze is on this object when step `stop` - 1 ends, and on no other."""
    return int(world.symbols.age_s[stop - 1].argmin()) == thing


def named_in(lesson: Lesson, nouns: list[int], place: int) -> int:
    """The object that the lesson names at this place."""
    return [nouns.index(token) for token in lesson.ids if token in nouns][place]


def test_a_question_is_put_as_the_model_is_asked_it(lessons: Lessons, worlds: list[SymbolWorld]) -> None:
    for item in [item for world in worlds for item in world.questions]:
        if item.task in ("GTA", "OAA"):
            lesson = lessons.question(item, "yes_no")
            assert text(lesson).startswith("<|vision_end|>Question: " + item.text + "\nIs it so now?")
            said = [target.token for target in lesson.targets[:2]]
            assert tiny_tokenizer().decode(said) == item.options[item.answer] + "<|im_end|>"
            assert text(lesson, lesson.targets[2].place + 1).endswith("now?")
            continue
        lesson = lessons.question(item, "letters")
        assert len(lesson.marks) == len(item.options)
        for (place, right), option in zip(lesson.marks, item.options, strict=True):
            assert text(lesson, place + 1).endswith(f". {option}") and right == (option == item.options[item.answer])
        assert lesson.targets[0].token == lessons.letters[item.answer] and lesson.final == len(lesson.ids) - 1
        words = lessons.question(item, "likelihood")
        said = [target.token for target in words.targets if target.place >= words.final]
        assert tiny_tokenizer().decode(said) == item.options[item.answer] + "<|im_end|>"
        told = [target for target in words.targets if target.place < words.final]
        assert len(told) == (item.task != "SR")
        if told:
            assert text(words, told[0].place + 1).endswith("?") and told[0].weight < 1
        brief = lessons.brief(item, item.answer)
        assert text(brief).endswith(f"A. {item.options[item.answer]}") and brief.choices[brief.right] == lessons.yes
    assert set(TASK_SHARES) == set(TASK_NAMES)


def test_naming_asks_for_the_letter_of_an_option(lessons: Lessons) -> None:
    rng = np.random.default_rng(1)
    for easy in [True] * 20 + [False] * 40:
        lesson = lessons.name(rng, easy=easy)
        said = text(lesson)
        wanted = said.partition("Which option is the ")[2].partition("?")[0]
        letter = tiny_tokenizer().decode([lesson.targets[0].token])
        line = next(line for line in said.split("\n") if line.startswith(f"{letter}. "))
        assert line[3:] in (wanted, wanted[1:-1])
        assert [text(lesson, place + 1).split("\n")[-1] for place, _ in lesson.marks] == [
            line for line in said.split("\n") if line[1:3] == ". "
        ]
        assert len(lesson.marks) == 2 if easy else 2 <= len(lesson.marks) <= 4


# --- rows -------------------------------------------------------------------------------------------------------------


def test_choosing_puts_a_probes_answer_among_options(lessons: Lessons, worlds: list[SymbolWorld]) -> None:
    rng, kinds = np.random.default_rng(4), set()
    for world in worlds:
        for kind in ("now", "colour-of", "next", "order", "never", "absent", "ever"):
            for _ in range(6):
                probe = lessons.probe(world, world.whole, kind, rng)
                lesson = None if probe is None else lessons.choose(probe, rng)
                if probe is None or lesson is None:
                    assert probe is None or kind == "ever"
                    continue
                kinds.add(kind)
                letters = [line[0] for line in text(lesson).splitlines() if line[1:3] == ". "]
                options = [line[3:] for line in text(lesson).splitlines() if line[1:3] == ". "]
                assert options[lesson.right] == probe.options[0] and set(options) <= set(probe.options)
                assert len(set(options)) == len(options) == len(lesson.choices) <= 4
                assert lesson.targets[0].token == lessons.letters[lesson.right] and letters == list(
                    "ABCD"[: len(letters)]
                )
                told = next(target for target in lesson.targets if target.early == TOLD_AFTER)
                assert tiny_tokenizer().decode([told.token]).strip() in options[lesson.right]
                assert [yes for _, yes in lesson.marks].index(True) == lesson.right
                if kind == "never":
                    gazed = {NOUNS[world.symbols.noun[thing]] for _, thing in world.looks}
                    assert options[lesson.right] not in gazed and set(options) - {options[lesson.right]} <= gazed
    assert kinds == {"now", "colour-of", "next", "order", "never", "absent"}


def test_early_targets_are_learned_after_the_share_that_says_so(
    tmp_path: Path, worlds: list[SymbolWorld], lessons: Lessons
) -> None:
    """Before it their weight changes nothing, after it it does."""
    found = {}
    for name, since, weight in (("off", 1.0, 0.5), ("zero", 0.0, 0.0), ("on", 0.0, 0.5)):
        vlm = build_tiny_vlm()
        pretrain(vlm, worlds, lessons, replace(SHORT, letters_from=since, early=weight, steps=2), tmp_path / name)
        found[name] = vlm.model.language_model.layers[1].mlp.up_proj.weight.detach().clone()
    assert not torch.equal(found["on"], found["zero"])
    only = replace(SHORT, steps=2, mixes=(Mix(1.0, probe=1.0),))  # no naming, whose videos would differ
    for name, since, weight in (("a", 1.0, 0.5), ("b", 0.0, 0.0)):
        vlm = build_tiny_vlm()
        pretrain(vlm, worlds, lessons, replace(only, letters_from=since, early=weight), tmp_path / name)
        found[name] = vlm.model.language_model.layers[1].mlp.up_proj.weight.detach().clone()
    assert torch.equal(found["a"], found["b"])


def test_a_row_equals_the_models_own_forward(lessons: Lessons, worlds: list[SymbolWorld]) -> None:
    """The same questions about the same tokens, by `PackedForward`, which `GazeQwen.score` is held equal to."""
    vlm = build_tiny_vlm()
    init_language(vlm, lessons, symbol_table(), seed=3)
    table, rng = symbol_table(), np.random.default_rng(2)
    reader = SymbolReader(vlm, table)
    worlds = [replace(world, questions=tuple(windowed(world))) for world in worlds]
    chosen = [world.questions[::4][:7] for world in worlds]
    assert any(item.first for items in chosen for item in items)
    assert any(item.task == "GSM" for items in chosen for item in items)

    def put(item: SymbolQuestion) -> list[Placed]:
        """By letters once; Yes or No once for each, as both are said and weighed."""
        if item.task in ("GTA", "OAA"):
            said = [lessons.question(replace(item, answer=answer), "yes_no") for answer in (0, 1)]
        else:
            said = [lessons.question(item, "letters")] * 2
        return [Placed(lesson, item.stop, item.first, item.tail) for lesson in said]

    pairs = [[put(item) for item in items] for items in chosen]
    placed = [[one for pair in of_world for one in pair] for of_world in pairs]
    assert len({len(items) for items in placed}) == 1
    row = symbol_row(worlds, placed, head=lessons.head, rng=rng, background=None)
    with torch.no_grad():
        hidden = reader.hidden(row, row.cells.content(table), None, late=False)
    starts = {id(item): start for item, start in row.lessons}

    def logprob(item: Placed) -> torch.Tensor:
        targets = [target for target in item.lesson.targets if target.place >= item.lesson.final]
        logits = reader.backbone.logits(hidden[[starts[id(item)] + target.place for target in targets]])
        return torch.log_softmax(logits, dim=1)[range(len(targets)), [target.token for target in targets]].sum()

    def answers(pair: list[Placed]) -> torch.Tensor:
        lesson = pair[0].lesson
        if lesson.marks:
            logits = reader.backbone.logits(hidden[starts[id(pair[0])] + lesson.final])
            return torch.log_softmax(logits[list(lesson.choices)], dim=0)
        return torch.log_softmax(torch.stack([logprob(item) for item in pair]), dim=0)

    model = GazeQwen(TINY_CONFIG, vlm=vlm, tokenizer=tiny_tokenizer(), extractor=None)
    for world, items, of_world in zip(worlds, chosen, pairs, strict=True):
        visual = content(table, world.symbols, brief=True)
        frozen = Frozen(visual, None, 4, 6)
        steps = [_step(float(seconds)) for seconds in world.seconds]
        asks = []
        for item in items:
            tail = None if item.tail is None else steps[item.tail]
            asks.append(
                Ask(
                    Question(item.text, 1e6, item.options, "q"),
                    item.answer,
                    item.options[item.answer],
                    stop=item.stop,
                    first=item.first,
                    tail=tail,
                    tail_frozen=None if item.tail is None else frozen[item.tail : item.tail + 1],
                    proactive=item.task in ("GTA", "OAA"),
                )
            )
        video = TrainingVideo("w", steps[: world.whole], frozen[: world.whole], asks)
        forms = [["yes_no" if ask.proactive else "letters" for ask in asks]]
        with torch.no_grad():
            scored = PackedForward(model, "none")([video], forms)  # type: ignore[arg-type]
        for pair, answer in zip(of_world, scored, strict=True):
            torch.testing.assert_close(answers(pair), answer.logprobs, rtol=0, atol=1e-5)


def windowed(world: SymbolWorld) -> list[SymbolQuestion]:
    """Every other question sees its newest steps only, as in the windows of long videos."""
    return [
        replace(item, first=item.stop // 2) if row % 2 and item.stop > 1 else item
        for row, item in enumerate(world.questions)
    ]


def _step(seconds: float) -> Step:
    times = np.array([seconds, seconds + 0.5])
    return Step(
        frames=blank_frames((2, 112, 168, 3)),
        frame_times_s=times,
        span_s=(seconds - 0.4, seconds + 0.5),
        vjepa_frames=blank_frames((1, 112, 168, 3)),
        vjepa_times_s=times[1:],
        gaze=GazeEvents.none(),
    )


def test_a_lesson_does_not_see_others_nor_later_steps(lessons: Lessons, worlds: list[SymbolWorld]) -> None:
    """Alone, at its own moment, its logits are those it has in a row."""
    vlm = build_tiny_vlm()
    reader, drawer = SymbolReader(vlm, symbol_table()), Drawer(worlds, lessons, SHORT)
    made = [drawer.probes(world, 9, 5, np.random.default_rng(3)) for world in worlds]

    def logits(chosen: list[SymbolWorld], placed: list[list[Placed]]) -> dict[int, torch.Tensor]:
        row = symbol_row(chosen, placed, head=lessons.head, rng=np.random.default_rng(0), background=None)
        with torch.no_grad():
            hidden = reader.hidden(row, row.cells.content(reader.table), row.cells.selection(reader.table), late=True)
            return {id(item): reader.backbone.logits(hidden[start + item.lesson.final]) for item, start in row.lessons}

    together = logits(worlds, made)
    for world, of_world in zip(worlds, made, strict=True):
        for item in of_world:
            torch.testing.assert_close(logits([world], [[item]])[id(item)], together[id(item)], rtol=0, atol=1e-5)


def test_selection_after_the_first_layer_reaches_the_answer(lessons: Lessons, worlds: list[SymbolWorld]) -> None:
    vlm = build_tiny_vlm()
    reader, drawer = SymbolReader(vlm, symbol_table()), Drawer(worlds, lessons, SHORT)
    row = drawer.row("probe", 0.9, np.random.default_rng(4))
    visual, selection = row.cells.content(reader.table), row.cells.selection(reader.table)
    with torch.no_grad():
        plain, early, late = (
            reader.logits(row, reader.hidden(row, visual, chosen, late=late))
            for chosen, late in ((None, False), (selection, False), (selection, True))
        )
    assert (plain - early).abs().max() > 1e-4 and (plain - late).abs().max() > 1e-4
    assert (early - late).abs().max() > 1e-5


# --- the run ----------------------------------------------------------------------------------------------------------


def run(folder: Path, worlds: list[SymbolWorld], lessons: Lessons, eval_every: int = 2) -> dict[str, torch.Tensor]:
    vlm = build_tiny_vlm()
    init_language(vlm, lessons, symbol_table(), seed=0)
    pretrain(vlm, worlds, lessons, SHORT, folder, held_out=worlds[:2], eval_every=eval_every)
    return {name: tensor.clone() for name, tensor in vlm.state_dict().items()}


def test_a_run_that_stops_goes_on_as_it_would_have(
    tmp_path: Path, worlds: list[SymbolWorld], lessons: Lessons, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "whole", worlds, lessons)
    drawn = Drawer.row

    def stop(self: Drawer, kind: str, done: float, rng: np.random.Generator, **options: object) -> object:
        if done >= 0.75:
            raise KeyboardInterrupt
        return drawn(self, kind, done, rng, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Drawer, "row", stop)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", worlds, lessons)
    monkeypatch.undo()
    resumed = run(tmp_path / "cut", worlds, lessons)
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    rows = [json.loads(line) for line in (tmp_path / "cut" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4] and rows[-1]["accuracy"]


def test_only_the_language_model_learns(tmp_path: Path, worlds: list[SymbolWorld], lessons: Lessons) -> None:
    vlm = build_tiny_vlm()
    init_language(vlm, lessons, symbol_table(), seed=0)
    before, after = vlm.state_dict(), run(tmp_path, worlds, lessons)
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert len(changed) > 40 and not any("visual" in name for name in changed)


def test_the_matching_heads_stay_as_they_are(tmp_path: Path, worlds: list[SymbolWorld], lessons: Lessons) -> None:
    vlm = build_tiny_vlm()
    init_language(vlm, lessons, symbol_table(), seed=0)
    before, after = vlm.state_dict(), run(tmp_path, worlds, lessons)
    kept = [row for head in matched_rows(vlm.model.language_model.config) for row in head]
    others = [row for row in range(128) if row not in kept]
    for layer in range(5):
        for name in ("q_proj.weight", "q_proj.bias", "k_proj.weight", "k_proj.bias"):
            name = f"model.language_model.layers.{layer}.self_attn.{name}"
            assert torch.equal(before[name][kept], after[name][kept])
            assert not torch.equal(before[name][others], after[name][others])


def test_a_matching_head_finds_its_noun(lessons: Lessons) -> None:
    """What a word asks for is found among other objects, and best where it is selected."""
    vlm: Any = build_tiny_vlm()
    table = symbol_table()
    init_language(vlm, lessons, table, seed=0)
    attention = vlm.model.language_model.layers[1].self_attn
    words = F.rms_norm(vlm.get_input_embeddings().weight[list(lessons.nouns)], (128,))
    cells = table["noun"] + 0.7 * (table["colour"][0] + table["state"][1])
    selected = table["selection"].sum(dim=0)
    same, chosen = matched_rows(vlm.model.language_model.config)

    def scores(rows: list[int], shown: torch.Tensor) -> torch.Tensor:
        shown = F.rms_norm(shown, (128,))
        return attention.q_proj(words)[:, rows] @ attention.k_proj(shown)[:, rows].T / 32**0.5

    plain = scores(same, cells)
    assert (plain.argmax(dim=1) == torch.arange(16)).all() and (plain.diag() > 2.5).all()
    off, on = scores(chosen, cells), scores(chosen, cells + 0.5 * selected)
    assert (on.diag() > off.diag() + 1).all()  # selected before others of its noun,
    wrong = on.masked_fill(torch.eye(16, dtype=torch.bool), -99).amax(dim=1)
    assert (off.diag() > wrong).float().mean() > 0.8  # and most of these before anything else


@pytest.mark.parametrize("damage", [b"", b"no checkpoint", b"PK\x03\x04 half of one"])
def test_a_damaged_checkpoint_is_named(
    tmp_path: Path, worlds: list[SymbolWorld], lessons: Lessons, damage: bytes
) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(damage)
    with pytest.raises(InputError, match=r"checkpoint\.pt.*damaged"):
        run(tmp_path, worlds, lessons)


def test_a_checkpoint_of_other_settings_is_not_gone_on_with(
    tmp_path: Path, worlds: list[SymbolWorld], lessons: Lessons
) -> None:
    run(tmp_path, worlds, lessons)
    vlm = build_tiny_vlm()
    with pytest.raises(InputError, match="settings"):
        pretrain(vlm, worlds, lessons, PretrainingSettings(steps=5), tmp_path)


def test_settings_that_make_no_run_are_refused() -> None:
    with pytest.raises(ConfigError, match="mixes"):
        PretrainingSettings(mixes=(Mix(0.5, probe=1.0),))


def test_videos_grow_to_the_longest_window() -> None:
    settings = PretrainingSettings()
    for kind, most in (("probe", settings.probe_steps), ("question", settings.question_steps)):
        lengths = [settings.longest(kind, done) for done in np.linspace(0, 1, 50)]
        assert lengths == sorted(lengths) and lengths[0] <= 10 and lengths[-1] == most


def test_evaluation_counts_by_what_is_asked(worlds: list[SymbolWorld], lessons: Lessons) -> None:
    reader = SymbolReader(build_tiny_vlm(), symbol_table())
    drawer = Drawer(worlds, lessons, SHORT)
    found = evaluate(reader, drawer, worlds)
    assert found == evaluate(reader, drawer, worlds) and all(0 <= value <= 100 for value in found.values())
    assert {"probe/next/8", "letters/OI-E", "marks/OI-E", "words/GTA"} <= set(found)
    assert found != evaluate(reader, drawer, worlds, selected=False)


# --- what the tower sees ----------------------------------------------------------------------------------------------


def test_seen_worlds_are_what_the_model_sees(lessons: Lessons, tmp_path: Path) -> None:
    world = make_symbol_world(PRETRAINING_SEEDS + 9, per_task=2)
    vlm = build_tiny_vlm()
    backbone = Backbone(vlm)
    drawer = Drawer([world], lessons, SHORT)
    steps = min(world.whole, 6)
    placed = [[Placed(lessons.name(np.random.default_rng(0), easy=True), steps)]]
    row = symbol_row([world], placed, head=lessons.head, rng=np.random.default_rng(0), background=None)
    seen = SeenWorlds([world], backbone, tmp_path)(row)
    recording = WorldRecording(World.make(world.seed, duration_s=world.duration_s), gaze=None)
    shown = [step for step in recording.steps_for([recording.end_s], 2.0, vjepa_fps=8.0) if isinstance(step, Step)]
    model = GazeQwen(TINY_CONFIG, vlm=vlm, tokenizer=tiny_tokenizer(), extractor=None)
    expected = model.frozen(shown[:steps], arm="none").visual.flatten(0, 1)
    torch.testing.assert_close(seen, expected, rtol=2e-3, atol=2e-3)  # kept as float16
    (kept,) = tmp_path.rglob("*.safetensors")
    was = kept.read_bytes()
    assert torch.equal(SeenWorlds([world], backbone, tmp_path)(row), seen)  # from its file
    kept.write_bytes(was[:100])
    sight = SeenWorlds([world], backbone, tmp_path)
    assert torch.equal(sight(row), seen) and kept.read_bytes() == was  # a damaged one is made anew
    with torch.no_grad():
        backbone.visual.patch_embed.proj.weight.add_(0.01)
    assert not torch.equal(SeenWorlds([world], backbone, tmp_path)(row), seen)  # another tower sees otherwise
    assert evaluate(SymbolReader(vlm, symbol_table()), drawer, [world], sight=sight) is not None


def test_language_is_made_once(tmp_path: Path, worlds: list[SymbolWorld], monkeypatch: pytest.MonkeyPatch) -> None:
    visual = tmp_path / "visual.pt"
    tower = {
        name.removeprefix("model.visual."): tensor.clone()
        for name, tensor in build_tiny_vlm(seed=5).state_dict().items()
        if ".visual." in name
    }
    torch.save(tower, visual)
    tuning = replace(SHORT, mixes=(Mix(1.0, question=1.0),), steps=2)
    few = [make_symbol_world(PRETRAINING_SEEDS + 7, per_task=2, duration_s=12.0)]

    def make(reading: PretrainingSettings = SHORT) -> Path:
        return make_language(tmp_path, few, [], reading=reading, visual=visual, tuning=tuning, tuning_worlds=1)

    made = make()
    read = load_file(tmp_path / "reading.safetensors")
    weights = load_file(made)
    assert set(read) == set(weights) and not any(".visual." in name for name in weights)
    assert any(not torch.equal(read[name], weights[name]) for name in weights)
    with monkeypatch.context() as patched:
        patched.setattr(language, "pretrain", lambda *_, **__: pytest.fail("trained again"))
        assert make() == made
    with pytest.raises(InputError, match=r"reading\.safetensors.*these settings"):
        make(replace(SHORT, seed=1))
    torch.save(dict(list(tower.items())[:3]), visual)
    made.unlink()
    with pytest.raises(InputError, match=r"visual\.pt.*amiss"):
        make()
