"""Many questions of many videos in one forward, each seeing what it would see alone.

    ┌ head ┬ step 0 ┬ step 1 ┬ ... ┐┌ question 0 ┐┌ question 1 ┐ ...   one row of tokens, videos one after the other
    └──────────── prefix ──────────┘└─ tail, text, said ─┘

A question is a block: its own partial step (tail), its words, and what may be said after them (branches). A block sees
the prefix's head, the steps of its own span, and itself; a branch sees itself and not its siblings. A tail sees the
older steps too, which a window hides from the words: they were there when it came in, as when a stream evicts them on
a question's fork. Positions are those of the question asked alone, so that logits equal `GazeQwen.score`'s on a stream
at the same time (a test: 1e-5), while the visual prefix is computed once.

Attention is exact and structured: blocks of similar length form groups, and a group's queries meet [prefix | own block]
in one call, so cost grows with what is seen and not with the square of the row. It is an attention function of
`transformers` (`ATTENTION`, set by `use_packed_attention`), which without a packing is sdpa.

Shapes: L tokens of the row, D hidden size, N blocks of a group, Q tokens of its longest block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from gazeqwen.backbone import Backbone
from gazeqwen.errors import ConfigError

ATTENTION = "gazeqwen_packed"
LENGTH_STEP = 16  # blocks whose lengths round up to the same multiple of this share a group


@dataclass(frozen=True, eq=False)
class Block:
    """A question's tokens, ready to be placed.

    Attributes:
        embeds: (q, D). `positions`: (3, q).
        parent: (q,) the branch that a token belongs to; -1 for the stem (tail and words), which all branches see.
        seen: tokens [start, stop) of the prefix after its head that it sees.
        tail: its first tokens, so many, are a partial step, which sees the prefix from its beginning to `stop`.
    """

    embeds: Tensor
    positions: Tensor
    parent: Tensor
    seen: tuple[int, int]
    tail: int = 0


@dataclass(frozen=True, eq=False)
class Group:
    """N blocks padded to Q tokens, one after the other in the row."""

    mask: Tensor  # (N, 1, Q, P + Q) bool, P prefix tokens that any block of the group sees
    seen: int  # P


@dataclass(frozen=True, eq=False)
class Part:
    """One video's rows: a prefix of so many tokens, then its groups."""

    prefix: int
    groups: tuple[Group, ...]


@dataclass(frozen=True, eq=False)
class Packing:
    """The structure of a row of tokens, read by the attention function."""

    parts: tuple[Part, ...]

    @property
    def sizes(self) -> list[int]:
        """Tokens of each prefix and group, in order of the row."""
        sizes = []
        for part in self.parts:
            sizes.append(part.prefix)
            sizes += [group.mask.shape[0] * group.mask.shape[2] for group in part.groups]
        return sizes

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        """Attention of the row: (heads, L, d) each -> (heads, L, d)."""
        # Split, not sliced: the backward of a slice fills a zero tensor of the whole row.
        sizes = self.sizes
        queries, keys, values = (iter(rows.split(sizes, dim=1)) for rows in (query, key, value))
        out = []
        for part in self.parts:
            q, k, v = next(queries), next(keys), next(values)
            out.append(F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True, scale=scaling)[0])
            for group in part.groups:
                n = len(group.mask)
                gq, gk, gv = (_blocks(next(rows), n) for rows in (queries, keys, values))
                gk = torch.cat([k[None, :, : group.seen].expand(n, -1, -1, -1), gk], dim=2)
                gv = torch.cat([v[None, :, : group.seen].expand(n, -1, -1, -1), gv], dim=2)
                answered = F.scaled_dot_product_attention(gq, gk, gv, attn_mask=group.mask, scale=scaling)
                out.append(answered.transpose(0, 1).flatten(1, 2))
        return torch.cat(out, dim=1)


@dataclass(eq=False)
class Row:
    """Builds a row: `add` videos, then read `embeds`, `positions`, `packing`, and where each block begins."""

    _embeds: list[Tensor] = field(default_factory=list)
    _positions: list[Tensor] = field(default_factory=list)
    _parts: list[Part] = field(default_factory=list)
    length: int = 0

    def add(self, embeds: Tensor, positions: Tensor, *, head: int, blocks: Sequence[Block]) -> tuple[int, list[int]]:
        """One video: its prefix (P, D) and (3, P), of which the first `head` tokens are seen by all; and its blocks.

        Returns:
            The row of the prefix's first token, and that of each block's.
        """
        start = self._append(embeds, positions)
        groups, starts = [], [0] * len(blocks)
        by_length: dict[int, list[int]] = {}
        for index, block in enumerate(blocks):
            by_length.setdefault(-(-len(block.embeds) // LENGTH_STEP), []).append(index)
        for members in by_length.values():
            q = max(len(blocks[index].embeds) for index in members)
            seen = max(head + blocks[index].seen[1] for index in members)
            masks = [_mask(blocks[index], head, seen, q) for index in members]
            for index in members:
                pad = q - len(blocks[index].embeds)
                starts[index] = self._append(
                    F.pad(blocks[index].embeds, (0, 0, 0, pad)), F.pad(blocks[index].positions, (0, pad), value=1)
                )
            groups.append(Group(torch.stack(masks)[:, None].to(embeds.device), seen))
        self._parts.append(Part(len(embeds), tuple(groups)))
        return start, starts

    def _append(self, embeds: Tensor, positions: Tensor) -> int:
        start = self.length
        self._embeds.append(embeds)
        self._positions.append(positions)
        self.length += len(embeds)
        return start

    @property
    def embeds(self) -> Tensor:
        """(1, L, D)."""
        return torch.cat(self._embeds)[None]

    @property
    def positions(self) -> Tensor:
        """(3, 1, L)."""
        return torch.cat(self._positions, dim=1)[:, None]

    @property
    def packing(self) -> Packing:
        return Packing(tuple(self._parts))


def _mask(block: Block, head: int, prefix: int, q: int) -> Tensor:
    """(q, prefix + q) bool. Padding sees itself, so that no row is empty."""
    n = len(block.embeds)
    places = torch.arange(prefix)
    within = (places < head) | (places >= head + block.seen[0]) | (torch.arange(q) < block.tail)[:, None]
    sees = within & (places < head + block.seen[1])
    own = torch.zeros(q, q, dtype=torch.bool)
    own[:n, :n] = (block.parent[:, None] == block.parent[None]) | (block.parent[None] == -1)
    own = own.tril() | torch.eye(q, dtype=torch.bool)
    return torch.cat([sees, own], dim=1)


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packing: Any = None,
    scaling: float | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """Attention of a packed row (1, heads, L, d) -> (1, L, heads, d); sdpa without a packing."""
    if packing is None:
        out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)  # type: ignore[arg-type]
        return out, None
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    return packing.attend(query[0], key[0], value[0], scaling).transpose(0, 1)[None], None


def _blocks(rows: Tensor, n: int) -> Tensor:
    """(heads, n * Q, d) -> (n, heads, Q, d)."""
    return rows.unflatten(1, (n, -1)).transpose(0, 1)


AttentionInterface.register(ATTENTION, packed_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def use_packed_attention(backbone: Backbone) -> None:
    """Lets the decoder take packed rows; everything else computes as before.

    Raises:
        ConfigError: the decoder runs another attention than sdpa.
    """
    current = backbone.decoder.config._attn_implementation
    if current not in ("sdpa", ATTENTION):
        raise ConfigError(f"packed training needs sdpa attention, this backbone runs {current!r}: load it with sdpa")
    backbone.decoder.config._attn_implementation = ATTENTION


def decode_packed(backbone: Backbone, row: Row) -> Tensor:
    """Last hidden states (L, D) of a row, after the final norm. `use_packed_attention` comes first."""
    output = backbone.decoder(
        inputs_embeds=row.embeds,
        position_ids=row.positions.to(backbone.device),
        attention_mask={"full_attention": None, "sliding_attention": None},
        use_cache=False,
        packing=row.packing,
    )
    return output.last_hidden_state[0]
