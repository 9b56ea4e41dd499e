"""The embedded model's language model learns to read symbols of the small world (recipe A of the project's notes).

    probes, videos growing from 6 to 60 steps ─► and the ten tasks' own words, from 10 to 120 steps

Each step of the optimiser takes one kind of lesson (`Mix`) and videos of one length, drawn evenly on a logarithmic
scale up to a limit that grows. Rows are small and steps many: with rows four times as large the same minutes taught
less.

Selection is the one concept that stands for gaze (DESIGN 8): two symbols, how long and how recently a look of the log
rested on the object within the step, added to the object's visual tokens after the first decoder layer, where the
resampler's residuals will come in, and asked about with the words for gaze. Nothing else about gaze is shown: no
sample, no mark, no coordinates. Arms that draw on frames do not start from this; say so beside their numbers.

A run is made of its settings and seed; stopped and resumed it gives the same weights (a test).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.tiny.files import append_line, load_state, save_state
from benchmarks.tiny.lessons import PROACTIVE, Lessons
from benchmarks.tiny.symbol_rows import Placed, SymbolRow, symbol_row
from benchmarks.tiny.symbol_worlds import SymbolQuestion, SymbolWorld
from gazeqwen.backbone import Backbone
from gazeqwen.digest import add_tensors
from gazeqwen.errors import ConfigError, InputError
from gazeqwen.packed import use_packed_attention
from gazeqwen.tiny.symbols import ROWS, SymbolTable, symbol_table

# How often a task's questions are drawn, beside each other: alerts have several points each.
TASK_SHARES = {
    "SR": 1.5, "OTP": 1.0, "GSM": 1.0, "NFI": 1.0, "OI-E": 0.6, "OI-H": 0.6, "OAR": 1.0, "FAP": 0.6, "GTA": 0.25,
    "OAA": 0.12,
}  # fmt: skip
PROBE_SHARES = {
    "colour-of": 1.0, "state-of": 0.7, "now": 0.7, "colour": 0.7, "state": 0.5, "is-now": 2.5, "appears": 0.8,
    "next": 2.5, "order": 1.5, "ever": 3.0, "behind": 2.0, "first": 0.3,
}  # fmt: skip
# What is learned first: to find an object, by name or by selection, and say what it is like. The others build on it.
RECALL = ("colour-of", "state-of", "now", "colour", "state", "appears")
CHOSEN_SHARES = {
    "colour-of": 1.0, "state-of": 0.7, "now": 0.7, "colour": 0.7, "state": 0.5, "next": 2.0, "order": 1.5, "never": 1.5,
    "absent": 1.5,
}  # fmt: skip

WORLDS_TRIED, TRIES = 100, 50
MATCHED_FROM = 9  # of 16 rotary frequencies; MATCHED_SCALE: a match then outweighs others by about e^4
MATCHED_SCALE = 0.6
# Of the second head: a match that is selected outweighs one that is not by e^3, and that one anything else.
SELECTED_SCALE, SELECTED_BIAS = 0.8, 8.0
INIT = 0.25  # standard deviation of a matrix times the square root of its width: 0.022 at 128


@dataclass(frozen=True)
class Mix:
    """How often each kind of step comes, and how long videos may be.

    Attributes:
        until: share of the run at which the next one takes over.
        name, recall, probe, choose, brief, question: shares of the steps; recall is probes of RECALL only, and choose
            those of CHOSEN_SHARES with options.
    """

    until: float
    name: float = 0.0
    recall: float = 0.0
    probe: float = 0.0
    choose: float = 0.0
    brief: float = 0.0
    question: float = 0.0

    @property
    def shares(self) -> dict[str, float]:
        """By kind of step."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name != "until"}

    def draw(self, rng: np.random.Generator) -> str:
        """The kind of one step."""
        kinds, shares = tuple(self.shares), np.array(list(self.shares.values()))
        return kinds[int(rng.choice(len(kinds), p=shares / shares.sum()))]


@dataclass(frozen=True)
class PretrainingSettings:
    """Attributes:
    steps: of the optimiser. `lr`: its peak, held until the share `hold` of the run, then falling to `final_lr` x lr.
    mixes: in order.
    probe_steps, question_steps: longest videos of probes and of questions, in steps; limits grow to them from 6 and
        10 over the shares `probe_growth`, `question_growth` of the run.
    row_tokens: of a step's row, about.
    noise: standard deviation added to the cells.
    late: share of steps in which selection is added after the first decoder layer, in the others before it.
    early: weight of targets that are to be read after an earlier layer (`Target.early`), from the share `letters_from`
        of the run on: from the start it kept probes with Yes or No at chance.
    letters_from: also from where on options are named after long videos, which show them.
    """

    seed: int = 0
    steps: int = 12_000
    lr: float = 1.2e-3
    warmup: int = 200
    hold: float = 0.35
    final_lr: float = 0.02
    weight_decay: float = 0.02
    mixes: tuple[Mix, ...] = (
        Mix(0.08, recall=0.97, name=0.03),
        Mix(0.3, probe=0.95, name=0.05),
        Mix(0.52, probe=0.2, name=0.15, choose=0.65),
        Mix(1.0, probe=0.15, name=0.05, choose=0.2, brief=0.1, question=0.5),
    )
    probe_steps: int = 60
    probe_growth: tuple[float, float] = (0.1, 0.6)
    question_steps: int = 120
    question_growth: tuple[float, float] = (0.45, 0.75)
    row_tokens: Mapping[str, int] = field(
        default_factory=lambda: {
            "name": 800,
            "recall": 800,
            "probe": 800,
            "choose": 1200,
            "brief": 1800,
            "question": 2400,
        }
    )
    noise: float = 0.03
    late: float = 1.0
    early: float = 0.5
    letters_from: float = 0.3

    def __post_init__(self) -> None:
        if min(self.steps, self.warmup) < 1 or not self.mixes or self.mixes[-1].until < 1 or not 0 <= self.hold < 1:
            raise ConfigError(
                "pretraining: expected steps and warmup of 1 or more, hold below 1 and mixes up to the end of the run, "
                f"found {self}"
            )
        for name in ("probe_growth", "question_growth"):
            start, stop = getattr(self, name)
            if stop <= start:
                raise ConfigError(f"pretraining: expected {name} to end after it begins, found {(start, stop)}")

    def mix(self, done: float) -> Mix:
        """Of the steps at this share of the run."""
        return next(mix for mix in self.mixes if done < mix.until or mix is self.mixes[-1])

    def rate(self, step: int) -> float:
        """Of this step."""
        done = step / self.steps
        falling = 1.0 if done < self.hold else max(self.final_lr, (1 - done) / (1 - self.hold))
        return self.lr * min(1.0, (step + 1) / self.warmup) * falling

    def longest(self, kind: str, done: float) -> int:
        """Steps of the longest video that this kind of step may show now."""
        low, most, (start, stop) = (
            (6, self.probe_steps, self.probe_growth)
            if kind in ("name", "recall", "probe", "choose")
            else (10, self.question_steps, self.question_growth)
        )
        grown = min(1.0, max(0.0, (done - start) / (stop - start)))
        return round(low * (most / low) ** grown)


Sight = Callable[[SymbolRow], Tensor]


class SymbolReader:
    """A backbone that reads symbol rows in place of images."""

    def __init__(self, vlm: torch.nn.Module, table: SymbolTable) -> None:
        self.backbone, self.table = Backbone(vlm), table
        use_packed_attention(self.backbone)

    def hidden(
        self,
        row: SymbolRow,
        visual: Tensor,
        selection: Tensor | None,
        *,
        late: bool,
        after: dict[int, Tensor] | None = None,
    ) -> Tensor:
        """(L, D) after the final norm.

        Args:
            visual: (V, D) in place of the row's visual tokens.
            selection: (V, D), added to them before the first layer, or after it (`late`).
            after: by decoder layer: gets what comes out of it, put through the final norm.
        """
        if selection is not None and not late:
            visual = visual + selection
        embeds = self.backbone.embed_ids(row.ids).index_copy(0, row.visual, visual)
        with self._added(row, selection if late else None), self._kept(after or {}):
            output = self.backbone.decoder(
                inputs_embeds=embeds[None],
                position_ids=row.positions[:, None],
                attention_mask={"full_attention": None, "sliding_attention": None},
                use_cache=False,
                packing=row.packing,
            )
        for layer in after or {}:
            after[layer] = self.backbone.decoder.norm(after[layer])  # type: ignore[index]
        return output.last_hidden_state[0]

    @contextmanager
    def _kept(self, after: dict[int, Tensor]) -> Iterator[None]:
        """Puts the output of the layers that are keys of `after` into it."""

        def keep(number: int) -> Callable[..., None]:
            def hook(_layer: object, _inputs: object, output: Any) -> None:
                after[number] = (output[0] if isinstance(output, tuple) else output)[0]

            return hook

        handles = [self.backbone.layers[number].register_forward_hook(keep(number)) for number in after]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def _added(self, row: SymbolRow, selection: Tensor | None) -> Iterator[None]:
        if selection is None:
            yield
            return

        def add(_layer: object, _inputs: object, output: Any) -> Any:
            first = output[0] if isinstance(output, tuple) else output
            first = first.index_add(1, row.visual, selection[None])
            return (first, *output[1:]) if isinstance(output, tuple) else first

        handle = self.backbone.layers[0].register_forward_hook(add)
        try:
            yield
        finally:
            handle.remove()

    def logits(self, row: SymbolRow, hidden: Tensor) -> Tensor:
        """(T, V) at the row's targets."""
        return self.backbone.logits(hidden[row.read])


def init_language(vlm: Any, lessons: Lessons, table: SymbolTable, *, seed: int) -> None:
    """Where the language model starts from: what would otherwise be learned first, and slowly.

    * Embeddings of standard deviation 0.1 and a final norm of 0.5. A word with a space before it starts as the word
      without, and a word that has a symbol as the symbol.
    * In each layer the first head attends to tokens of the same noun, and the second to those among them that are
      selected: queries and keys are the same projection on what tells nouns apart (after Trockman and Kolter 2023,
      arXiv 2305.09828, whose heads start with products of query and key weights near the identity), for the second
      with a bias for selection. They use the slow rotary dimensions of rows and columns, which turn by two thirds of
      a radian a minute of video or less, and stay as they are in pre-training (`matched_rows`). Without them, probes
      with Yes or No were still at chance after twelve minutes; with them they took five.
    """
    embedding = vlm.get_input_embeddings().weight
    generator = torch.Generator().manual_seed(seed)
    language = vlm.model.language_model
    same, selected = matched_rows(language.config)
    nouns = table["noun"].T  # (D, nouns)
    turn = torch.linalg.qr(torch.randn(nouns.shape[1], nouns.shape[1], generator=generator))[0]
    basis = (torch.linalg.qr(nouns)[0] @ turn).T
    flag = F.normalize(table["selection"].sum(dim=0), dim=0)
    with torch.no_grad():
        embedding.normal_(0, 0.1, generator=generator)
        language.norm.weight.fill_(0.5)
        for group in ("noun", "colour", "state", "direction"):
            for name, row in zip(ROWS[group], table[group], strict=True):
                embedding[lessons.word(name)] = row
        for without, spaced in lessons.synonyms():
            embedding[spaced] = embedding[without]
        for layer in language.layers:
            for matrix in layer.parameters():
                if matrix.ndim == 2:
                    matrix.normal_(0, INIT * matrix.shape[1] ** -0.5, generator=generator)
            query, key = layer.self_attn.q_proj, layer.self_attn.k_proj
            for projection in (query, key):
                projection.weight[same] = MATCHED_SCALE * basis[: len(same)]
                projection.weight[selected[:-1]] = SELECTED_SCALE * basis[: len(selected) - 1]
            query.weight[selected[-1]] = 0.0
            query.bias[selected[-1]] = SELECTED_BIAS
            key.weight[selected[-1]] = MATCHED_SCALE * flag


def matched_rows(config: Any) -> tuple[list[int], list[int]]:
    """Rows of a layer's query and key weights, of the first and of the second head, that `init_language` sets and
    pre-training leaves alone."""
    size = config.hidden_size // config.num_attention_heads
    slow = size * MATCHED_FROM // 32
    first = [*range(slow, size // 2), *range(size // 2 + slow, size)]
    return first, [size + row for row in first]


class Drawer:
    """Draws what the next step is about.

    Args:
        worlds: in any order.
    """

    def __init__(self, worlds: Sequence[SymbolWorld], lessons: Lessons, settings: PretrainingSettings) -> None:
        self.worlds, self.lessons, self.settings = worlds, lessons, settings

    def row(self, kind: str, done: float, rng: np.random.Generator, *, background: int | None = 1) -> SymbolRow:
        """A row of lessons of one kind at this share of the run."""
        easy = len(self.settings.mixes) > 1 and done < 0.4 * self.settings.mixes[0].until
        for _ in range(TRIES):  # few worlds are asked much in their first seconds
            named = done >= self.settings.letters_from
            chosen, placed = self._drawn(kind, self.settings.longest(kind, done), rng, easy=easy, named=named)
            if chosen:
                return symbol_row(chosen, placed, head=self.lessons.head, rng=rng, background=background)
        raise ConfigError(f"pretraining: expected worlds with {kind} lessons, found none: make more of them")

    def _drawn(
        self, kind: str, longest: int, rng: np.random.Generator, *, easy: bool, named: bool
    ) -> tuple[list[SymbolWorld], list[list[Placed]]]:
        """Worlds for a row of one length, and as many lessons for each; none where no world drawn has so many.

        Args:
            named: options are named after videos of any length that may show them, and not after two to four steps.
        """
        steps = max(2, round(2 * (longest / 2) ** rng.random()))
        if kind == "name":
            n, words = 12, 42
            steps = steps if named else int(rng.integers(2, 5))
        elif kind in ("recall", "probe"):
            n, words = 16, 8
        else:
            n, words = 16, {"brief": 28, "choose": 42}.get(kind, 50)
        b = int(np.clip(self.settings.row_tokens[kind] // (n * words + steps * 8), 2, 12))
        chosen: list[SymbolWorld] = []
        placed: list[list[Placed]] = []
        for _ in range(WORLDS_TRIED):
            world = self.worlds[int(rng.integers(len(self.worlds)))]
            of_world = self._placed(world, kind, steps, n, rng, easy=easy, named=named)
            if of_world:
                chosen.append(world)
                placed.append(of_world)
            if len(chosen) == b:
                break
        return chosen, placed

    def _placed(
        self, world: SymbolWorld, kind: str, steps: int, n: int, rng: np.random.Generator, *, easy: bool, named: bool
    ) -> list[Placed]:
        if kind in ("name", "recall", "probe", "choose") and world.whole < steps:
            return []
        if kind == "name":
            shown = world if named else None
            return [Placed(self.lessons.name(rng, easy=easy, world=shown), steps) for _ in range(n)]
        if kind in ("recall", "probe"):
            recalled = {name: PROBE_SHARES[name] for name in RECALL}
            return self.probes(world, steps, n, rng, shares=recalled if kind == "recall" else PROBE_SHARES)
        if kind == "choose":
            made = self.probes(world, steps, n, rng, shares=CHOSEN_SHARES)
            chosen = [(self.lessons.choose(placed.lesson, rng), placed.stop) for placed in made]
            kept = [Placed(lesson, stop) for lesson, stop in chosen if lesson is not None]
            return [kept[row % len(kept)] for row in range(n)] if kept else []
        known = [asked for asked in world.questions if asked.stop <= steps]
        if len(known) < 4 or max(asked.stop for asked in known) < steps / 2:
            return []
        shares = np.array([TASK_SHARES[asked.task] for asked in known])
        rows = rng.choice(len(known), n, replace=len(known) < n, p=shares / shares.sum())
        return [self.placed_question(known[row], rng, brief=kind == "brief") for row in rows]

    def probes(
        self,
        world: SymbolWorld,
        steps: int,
        n: int,
        rng: np.random.Generator,
        *,
        shares: Mapping[str, float] = PROBE_SHARES,
    ) -> list[Placed]:
        """n probes at moments up to `steps`, three in ten at it. None where a world has room for no kind."""
        kinds, parts = tuple(shares), np.array(list(shares.values()))
        made: list[Placed] = []
        for _ in range(4 * n):
            kind = kinds[int(rng.choice(len(kinds), p=parts / parts.sum()))]
            stop = steps if rng.random() < 0.3 else int(rng.integers(2, steps + 1))
            lesson = self.lessons.probe(world, stop, kind, rng)
            if lesson is not None:
                made.append(Placed(lesson, stop))
            if len(made) == n:
                break
        return made + [made[int(rng.integers(len(made)))] for _ in range(n - len(made))] if made else []

    def placed_question(self, asked: SymbolQuestion, rng: np.random.Generator, *, brief: bool) -> Placed:
        if brief:
            option = asked.answer if rng.random() < 0.5 else int(rng.integers(len(asked.options)))
            lesson = self.lessons.brief(asked, option)
        elif asked.task in PROACTIVE:
            lesson = self.lessons.question(asked, "yes_no")
        else:
            lesson = self.lessons.question(asked, "letters" if rng.random() < 0.6 else "likelihood")
        return Placed(lesson, asked.stop, asked.first, asked.tail)


def pretrain(
    vlm: Any,
    worlds: Sequence[SymbolWorld],
    lessons: Lessons,
    settings: PretrainingSettings,
    folder: Path,
    *,
    held_out: Sequence[SymbolWorld] = (),
    eval_every: int = 600,
    sight: Sight | None = None,
) -> None:
    """Trains the language model of `vlm` in place; `folder` gets log.jsonl and, every `eval_every` steps, a checkpoint
    from which an interrupted run of the same settings goes on.

    Args:
        sight: gives the visual tokens of a row, whose whole grid is then shown; without it they are symbols.

    Raises:
        InputError: the checkpoint is damaged, or is of other settings.
    """
    table = symbol_table()
    reader = SymbolReader(vlm, table)
    drawer = Drawer(worlds, lessons, settings)
    parameters = {name: p for name, p in vlm.named_parameters() if "visual" not in name}
    trained = {name: parameter.requires_grad for name, parameter in vlm.named_parameters()}
    for name, parameter in vlm.named_parameters():
        parameter.requires_grad_(name in parameters)
    optimizer = build_optimizer(parameters, settings)
    state = folder / "checkpoint.pt"
    identity = _identity(settings, parameters, worlds, seen=sight is not None)
    began = _resume(state, identity, parameters, optimizer)
    matchers = _Matchers(vlm)
    losses: dict[str, float] = {}
    started = time.monotonic()
    try:
        for step in range(began, settings.steps):
            done, rng = step / settings.steps, np.random.default_rng((settings.seed, step))
            for group in optimizer.param_groups:
                group["lr"] = settings.rate(step)
            kind = settings.mix(done).draw(rng)
            row = drawer.row(kind, done, rng, background=1 if sight is None else None)
            visual = row.cells.content(table) if sight is None else sight(row)
            noise = rng.standard_normal(visual.shape, dtype=np.float32)
            visual = visual + settings.noise * torch.from_numpy(noise)
            late = bool(rng.random() < settings.late)
            layers = row.early.unique().tolist() if done >= settings.letters_from else []
            after = {layer: visual for layer in layers if layer >= 0}
            hidden = reader.hidden(row, visual, row.cells.selection(table), late=late, after=after)
            each = F.cross_entropy(reader.logits(row, hidden).float(), row.tokens, reduction="none")
            loss = (each * row.weights).sum() / row.weights.sum()
            for layer, then in after.items():
                rows = row.early == layer
                logits = reader.backbone.logits(then[row.read[rows]]).float()
                each = F.cross_entropy(logits, row.tokens[rows], reduction="none")
                loss = loss + settings.early * (each * row.weights[rows]).sum() / row.weights.sum()
            if not torch.isfinite(loss):
                raise InputError(
                    f"step {step + 1}", expected="a finite loss", found=f"{loss.item()}", fix="choose a smaller lr"
                )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(list(parameters.values()), 1.0)
            optimizer.step()
            matchers.restore()
            losses[kind] = 0.95 * losses.get(kind, loss.item()) + 0.05 * loss.item()
            if (step + 1) % eval_every == 0 or step + 1 == settings.steps:
                found = evaluate(reader, drawer, held_out, sight=sight) if held_out else {}
                spent_s = round(time.monotonic() - started, 1)
                told = {"step": step + 1, "seconds": spent_s, "loss": losses, "accuracy": found}
                append_line(folder / "log.jsonl", told)
                _save(state, identity, step + 1, parameters, optimizer)
    finally:
        for name, parameter in vlm.named_parameters():
            parameter.requires_grad_(trained[name])


class _Matchers:
    """The rows of `matched_rows` as they were, and back."""

    def __init__(self, vlm: Any) -> None:
        language = vlm.model.language_model
        self._rows = [row for head in matched_rows(language.config) for row in head]
        projections = [p for layer in language.layers for p in (layer.self_attn.q_proj, layer.self_attn.k_proj)]
        self._parameters = [part for projection in projections for part in (projection.weight, projection.bias)]
        self._were = [parameter.detach()[self._rows].clone() for parameter in self._parameters]

    @torch.no_grad()
    def restore(self) -> None:
        for parameter, were in zip(self._parameters, self._were, strict=True):
            parameter[self._rows] = were


def build_optimizer(parameters: Mapping[str, torch.nn.Parameter], settings: PretrainingSettings) -> torch.optim.AdamW:
    """AdamW; biases and norms have no weight decay."""
    many, few = ([p for p in parameters.values() if (p.ndim == 2) == matrix] for matrix in (True, False))
    return torch.optim.AdamW(
        [{"params": many, "weight_decay": settings.weight_decay}, {"params": few, "weight_decay": 0.0}],
        lr=settings.lr,
        betas=(0.9, 0.98),
    )


@torch.no_grad()
def evaluate(
    reader: SymbolReader,
    drawer: Drawer,
    worlds: Sequence[SymbolWorld],
    *,
    selected: bool = True,
    seed: int = 5,
    sight: Sight | None = None,
) -> dict[str, float]:
    """Accuracy on held-out worlds by what is asked: probes after 8 and 30 steps ("probe/next/30"), whole questions by
    form ("letters/OTP"), and how often the mark of the right option is the likeliest Yes ("marks/OTP").

    Args:
        selected: with the selection symbols.
        sight: as of `pretrain`.
    """
    rng = np.random.default_rng(seed)
    hits: dict[str, list[bool]] = defaultdict(list)
    batches: list[tuple[str, list[SymbolWorld], list[list[Placed]]]] = []
    for steps in (8, 30):
        part = [world for world in worlds if world.whole >= steps][:16]
        lessons = [drawer.probes(world, steps, 40, rng) for world in part]
        batches.append((f"/{steps}", part, lessons))
    part = [world for world in worlds if len(world.questions) >= 16][:48]
    asked = [
        [drawer.placed_question(world.questions[row], rng, brief=False) for row in rng.choice(len(world.questions), 24)]
        for world in part
    ]
    batches.append(("", part, asked))
    for suffix, part, placed in batches:
        for at in range(0, len(part), 8):
            chosen, asked_of = part[at : at + 8], placed[at : at + 8]
            row = symbol_row(chosen, asked_of, head=drawer.lessons.head, rng=rng, background=None)
            selection = row.cells.selection(reader.table) if selected else None
            visual = row.cells.content(reader.table) if sight is None else sight(row)
            hidden = reader.hidden(row, visual, selection, late=True)
            for item, start in row.lessons:
                lesson = item.lesson
                if len(set(lesson.choices)) < len(lesson.choices):
                    continue
                said = reader.backbone.logits(hidden[start + lesson.final])[list(lesson.choices)]
                form = "probe" if suffix else "letters" if lesson.marks else "words"
                hits[f"{form}/{lesson.kind}{suffix}"].append(int(said.argmax()) == lesson.right)
                if lesson.marks and not suffix:
                    places = [start + place for place, _ in lesson.marks]
                    marked = reader.backbone.logits(hidden[places])
                    best = int((marked[:, drawer.lessons.yes] - marked[:, drawer.lessons.no]).argmax())
                    hits[f"marks/{lesson.kind}"].append(lesson.marks[best][1])
    return {name: round(100 * float(np.mean(found)), 1) for name, found in sorted(hits.items())}


# -- checkpoints -------------------------------------------------------------------------------------------------------


def _identity(
    settings: PretrainingSettings, parameters: Mapping[str, Tensor], worlds: Sequence[SymbolWorld], *, seen: bool
) -> str:
    """Of all that makes a run: settings, worlds, the weights that it starts from, and whether it sees or is told."""
    digest = hashlib.sha256(json.dumps([asdict(settings), [world.seed for world in worlds], seen]).encode())
    add_tensors(digest, parameters)
    return digest.hexdigest()


def _save(
    path: Path, identity: str, step: int, parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
) -> None:
    weights = {name: parameter.detach() for name, parameter in parameters.items()}
    save_state(path, {"run": identity, "step": step, "weights": weights, "optimizer": optimizer.state_dict()})


def _resume(path: Path, identity: str, parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> int:
    """The step to go on with; 0 where there is no checkpoint."""
    state = load_state(path, expected="a checkpoint of this run")
    if state is None:
        return 0
    try:
        told, step, weights, moments = (state[name] for name in ("run", "step", "weights", "optimizer"))
        if told != identity:
            raise InputError(
                path,
                expected="a checkpoint of these settings, worlds and first weights",
                found="one of others",
                fix="delete it, or choose another folder",
            )
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(weights[name])
        optimizer.load_state_dict(moments)
    except (KeyError, TypeError, RuntimeError) as error:
        raise InputError(path, expected="a checkpoint of this run", found="a damaged file", fix="delete it") from error
    return step
