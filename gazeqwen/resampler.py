"""GazeResampler: V-JEPA features and gaze of a step in, one residual per (decoder layer, video token) out.

    features (S,K,P) ──► tokens ◄── gaze encoding (S,P)          S steps, K tubelets of a step, P = h*w video tokens
                           │                    │
          latents ──► attend, FF  (x blocks)    │                latents pool the step, near gaze and far from it
                           │                    │
          newest token ──► read latents ──► z ◄─┴── skip MLP     z (S,P,d); the skip path keeps "gaze is here" per token
                                            │
                     per layer: z * scale + shift, or one z for all layers and a gate each
                                            │
                                  one output Linear, zero at start ──► residuals (S,P,D)

A Perceiver resampler (as in flamingo-pytorch) whose video tokens read the latents back, as in the published GazeQwen
module (`OfficialResampler` here, phamtrongthang123/gazeqwen `GazeLens`). It differs from the published one where that
was measured to fail or to cost: gaze is per token; gaze has a direct path to the residual (frozen small backbones: 28 %
without it, 82 to 94 % with it); one trunk serves all layers (about 3 million parameters at 7B instead of 10.8); all
steps and layers are one batched call.

Shapes: S steps, K tubelets, h w the video-token grid, P = h*w, L latents, d width, D hidden size of the decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, overload

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from gazeqwen.config import GazeEncodingConfig, GazeQwenConfig, ResamplerConfig
from gazeqwen.errors import ConfigError, InjectionError, InputError
from gazeqwen.gaze_encoding import (
    GazeBatch,
    LocalGazeEncoding,
    StepRows,
    as_index,
    build_gaze_encoding,
    official_gaze_encoding,
)


@dataclass(frozen=True, eq=False)
class Residuals:
    """What to add at each layer. Layers may share a base tensor, so 27 gated layers hold one tensor and 27 numbers.

    Attributes:
        layers: decoder layers (0-based) with a residual on their output.
        base: (n_bases, S, P, D).
        base_of_layer: for each of `layers`, its row of `base`.
        scale_of_layer: (len(layers),) factor of each layer, or None for 1.
    """

    layers: tuple[int, ...]
    base: Tensor
    base_of_layer: tuple[int, ...]
    scale_of_layer: Tensor | None = None

    def for_layer(self, layer: int) -> Tensor:
        """(S, P, D) float32 residual for the output of `layer`. Raises InjectionError for a layer without one."""
        if layer not in self.layers:
            raise InjectionError(f"layer {layer} has no residual; layers with one are {self.layers}")
        index = self.layers.index(layer)
        base = self.base[self.base_of_layer[index]].float()
        return base if self.scale_of_layer is None else base * self.scale_of_layer[index].float()

    def select(self, steps: StepRows) -> Residuals:
        """The same for these steps (a slice, row numbers or a mask)."""
        return replace(self, base=self.base[:, as_index(steps)])

    def detach(self) -> Residuals:
        """Without the graph: what a cache may keep."""
        scale = self.scale_of_layer
        return replace(self, base=self.base.detach(), scale_of_layer=None if scale is None else scale.detach())


class CrossAttention(nn.Module):
    """Pre-norm multi-head attention of `queries` over `context`, without the residual sum.

    No key bias: the softmax cancels it, so it would never get a gradient.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_norm, self.context_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.to_query = nn.Linear(dim, dim)
        self.to_key_value = nn.Linear(dim, 2 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim)

    def forward(
        self, queries: Tensor, context: Tensor, *, return_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """(S, Q, d) and (S, C, d) -> (S, Q, d), and the weights (S, Q, C) averaged over heads when asked for."""
        query = rearrange(self.to_query(self.query_norm(queries)), "s q (n e) -> s n q e", n=self.heads)
        key, value = rearrange(
            self.to_key_value(self.context_norm(context)), "s c (two n e) -> two s n c e", two=2, n=self.heads
        )
        weights = None
        if return_weights:
            attention = torch.softmax(query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5, dim=-1)
            pooled, weights = attention @ value, attention.mean(dim=1)
        else:
            pooled = F.scaled_dot_product_attention(query, key, value)
        return self.to_out(rearrange(pooled, "s n q e -> s q (n e)")), weights


def _feed_forward(dim: int, *, inner: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, inner), nn.GELU(), nn.Linear(inner, dim))


class GazeResampler(nn.Module):
    """See the module's docstring. Every parameter is trainable; the output is exactly zero until the first update.

    Args:
        config: `kind="gaze"`; `layers` as depth fractions, indices, or "learned".
        encoding: the `local` gaze encoding, or `broadcast`.
        feature_dim: channels of the features.
        hidden_dim: D, the decoder's hidden size.
        n_layers: the decoder's layers.

    Attributes:
        layers: decoder layers with a residual, ascending.

    Raises:
        ConfigError: another kind or encoding, or layers the decoder doesn't have.
    """

    def __init__(
        self,
        config: ResamplerConfig,
        encoding: GazeEncodingConfig,
        *,
        feature_dim: int,
        hidden_dim: int,
        n_layers: int,
    ) -> None:
        super().__init__()
        if config.kind != "gaze":
            raise ConfigError(f"GazeResampler needs resampler.kind='gaze', got {config.kind!r}")
        dim = config.dim
        self.layers = config.layer_indices(n_layers)
        self.feature_dim = feature_dim
        self.gaze_encoding = build_gaze_encoding(encoding)
        self.feature_norm = nn.LayerNorm(feature_dim)
        self.feature_proj = nn.Linear(feature_dim, dim)
        self.tubelet_age = nn.Parameter(torch.randn(dim) * 0.02)  # times 0 for the newest tubelet, 1 for the one before
        self.null_gaze = nn.Parameter(torch.randn(self.gaze_encoding.dim) * 0.02)
        self.gaze_proj = nn.Linear(self.gaze_encoding.dim, dim, bias=False)
        self.latents = nn.Parameter(torch.randn(config.latents, dim) * 0.02)
        self.attends = nn.ModuleList(CrossAttention(dim, config.heads) for _ in range(config.blocks))
        self.feed_forwards = nn.ModuleList(_feed_forward(dim, inner=4 * dim) for _ in range(config.blocks))
        self.read = CrossAttention(dim, config.heads)
        self.skip = None
        if config.skip:
            self.skip = nn.Sequential(nn.Linear(self.gaze_encoding.dim + dim, dim), nn.GELU(), nn.Linear(dim, dim))
        n_heads = len(self.layers)
        if config.layers == "learned":
            # The sum over layers starts at the size of one injection.
            self.layer_gate = nn.Parameter(torch.full((n_heads,), 1.0 / n_heads))
        else:
            self.layer_scale = nn.Parameter(torch.ones(n_heads, dim))
            self.layer_shift = nn.Parameter(torch.zeros(n_heads, dim))
        self.shared_head = config.layers == "learned"
        self.to_hidden = nn.Linear(dim, hidden_dim, bias=False)
        nn.init.zeros_(self.to_hidden.weight)

    @overload
    def forward(self, features: Tensor, gaze: GazeBatch, *, return_attention: Literal[False] = False) -> Residuals: ...

    @overload
    def forward(
        self, features: Tensor, gaze: GazeBatch, *, return_attention: Literal[True]
    ) -> tuple[Residuals, Tensor]: ...

    def forward(
        self, features: Tensor, gaze: GazeBatch, *, return_attention: bool = False
    ) -> Residuals | tuple[Residuals, Tensor]:
        """All steps and layers at once.

        Args:
            features: (S, K, h, w, feature_dim), tubelets in order of time, the newest last.
            gaze: S steps, on the same device.
            return_attention: also give the latents' attention over the patches.

        Returns:
            Residuals; with `return_attention`, also (S, L, h*w) differentiable weights of the last block, averaged over
            heads and summed over tubelets, so that each latent's weights sum to 1.

        Raises:
            InputError: the shapes don't fit each other.
        """
        if features.ndim != 5 or features.shape[-1] != self.feature_dim or features.shape[1] < 1:
            raise InputError(
                "features", expected=f"shape (S, K >= 1, h, w, {self.feature_dim})", found=str(tuple(features.shape))
            )
        steps, tubelets, h, w, _ = features.shape
        if len(gaze) != steps:
            raise InputError("gaze", expected=f"one row for each of {steps} steps", found=f"{len(gaze)} rows")
        dtype = self.latents.dtype
        encoded = self.gaze_encoding(gaze, h, w).to(dtype)  # (S, P, e)
        encoded = encoded + (1 - encoded[..., -1:]) * self.null_gaze  # where the flag is 0, everything else is 0 too
        patches = self.feature_proj(self.feature_norm(rearrange(features.to(dtype), "s k h w c -> s k (h w) c")))
        age = torch.arange(tubelets - 1, -1, -1, device=features.device, dtype=dtype)
        tokens = patches + self.gaze_proj(encoded)[:, None] + (age[:, None] * self.tubelet_age)[:, None]  # (S, K, P, d)

        context = rearrange(tokens, "s k p d -> s (k p) d")
        latents = repeat(self.latents, "l d -> s l d", s=steps)
        attention: Tensor | None = None
        last = len(self.attends) - 1
        for index, (attend, feed_forward) in enumerate(zip(self.attends, self.feed_forwards, strict=True)):
            pooled, attention = attend(latents, context, return_weights=return_attention and index == last)
            latents = latents + pooled
            latents = latents + feed_forward(latents)
        read, _ = self.read(tokens[:, -1], latents)
        z = read  # (S, P, d)
        if self.skip is not None:
            z = z + self.skip(torch.cat([encoded, patches[:, -1]], dim=-1))

        residuals = self._heads(z)
        if attention is None:
            return residuals
        return residuals, rearrange(attention, "s l (k p) -> s l k p", k=tubelets).sum(dim=2)

    def _heads(self, z: Tensor) -> Residuals:
        if self.shared_head:
            base = self.to_hidden(z)[None]
            return Residuals(self.layers, base, (0,) * len(self.layers), self.layer_gate)
        per_layer = z * self.layer_scale[:, None, None] + self.layer_shift[:, None, None]  # (layers, S, P, d)
        return Residuals(self.layers, self.to_hidden(per_layer), tuple(range(len(self.layers))))


class OfficialResampler(nn.Module):
    """The published module (`GazeLens`), strict about its state dict; all steps and modules in one batched call.

    One independent module m per listed layer. Per step, with X = proj_in(features) (P, d), L = latents and g the gaze
    encoding of the frame, each block does

        S = [X; L],  A = softmax(q(L) (k(S) + gp([g, ..., g; 0]))^T / sqrt(d)),  L = norm(M + FF(M)) with M = L + A v(S)

    and the residual is amplitude * proj_out(softmax(X L^T / sqrt(d)) L). Computed here with the projections moved from
    the P tokens to the few latents, which is the same number: q(L) k(S)^T = (q(L) W_k) S^T up to terms that are equal
    for all keys of a query (the biases of k and gp, which also reaches the latent rows), and these cancel in the
    softmax; A v(S) = (A S) W_v^T + b_v because the rows of A sum to 1. Those two biases get no gradient (upstream: 0).

    Kept from upstream: an empty scanpath gives zeros, a scanpath without an active fixation doesn't (g = 0); a layer
    without a module of its own uses module 0 with its own amplitude.

    Args:
        config: `kind="official"`, `layers` as indices (published: 6, 13, 20, 27 with `allow_last_layer`); one head.
        feature_dim, hidden_dim, n_layers: as for GazeResampler; `amplitude` has n_layers entries.

    Raises:
        ConfigError: another kind, layers that are no indices, or layers the decoder doesn't have.
    """

    def __init__(self, config: ResamplerConfig, *, feature_dim: int, hidden_dim: int, n_layers: int) -> None:
        super().__init__()
        if config.kind != "official":
            raise ConfigError(f"OfficialResampler needs resampler.kind='official', got {config.kind!r}")
        if isinstance(config.layers, str) or not all(isinstance(layer, int) for layer in config.layers):
            raise ConfigError(f"resampler.layers: the published module needs layer indices, got {config.layers!r}")
        config.layer_indices(n_layers)  # raises for a layer the decoder doesn't have
        dim, modules, blocks = config.dim, range(len(config.layers)), range(config.blocks)
        self.layers = tuple(int(layer) for layer in config.layers)
        self.dim, self.feature_dim, self.hidden_dim, self.n_layers = dim, feature_dim, hidden_dim, n_layers

        def linears() -> nn.ModuleList:
            return nn.ModuleList(nn.ModuleList(nn.Linear(dim, dim) for _ in blocks) for _ in modules)

        self.latents = nn.ParameterList(nn.Parameter(torch.randn(config.latents, dim) * 0.02) for _ in modules)
        self.proj_ins = nn.ModuleList(nn.Linear(feature_dim, dim, bias=False) for _ in modules)
        self.q_projs, self.k_projs, self.g_projs, self.v_projs = linears(), linears(), linears(), linears()
        self.ff_blocks = nn.ModuleList(
            nn.ModuleList(_feed_forward(dim, inner=4 * dim) for _ in blocks) for _ in modules
        )
        self.block_norms = nn.ModuleList(nn.ModuleList(nn.LayerNorm(dim) for _ in blocks) for _ in modules)
        self.proj_outs = nn.ModuleList(nn.Linear(dim, hidden_dim, bias=False) for _ in modules)
        self.amplitude = nn.Parameter(torch.ones(n_layers))
        for proj_out in self.proj_outs:
            nn.init.zeros_(proj_out.weight)  # type: ignore[arg-type]
        self._stacks: tuple[tuple[object, ...], dict[str, Tensor]] | None = None

    def forward(
        self,
        features: Tensor | Sequence[Tensor],
        scanpath: Tensor,
        frame_times_s: Tensor | Sequence[float],
        *,
        layers: Sequence[int] | None = None,
    ) -> Residuals:
        """Residuals of T steps for `layers` (default: those with a module of their own).

        Args:
            features: (T, P, feature_dim), or T tensors (P, feature_dim).
            scanpath: (N, 4) x_norm, y_norm, mid_s, duration_s of the whole clip.
            frame_times_s: (T,) seconds.

        Raises:
            InputError: shapes that don't fit each other.
            ConfigError: a layer the decoder doesn't have.
        """
        x = self._features(features, len(frame_times_s))
        chosen = self.layers if layers is None else tuple(layers)
        if not all(0 <= layer < self.n_layers for layer in chosen):
            raise ConfigError(f"layers {chosen}: the decoder has layers 0..{self.n_layers - 1}")
        module_of_layer = [self.layers.index(layer) if layer in self.layers else 0 for layer in chosen]
        used = sorted(set(module_of_layer))
        base_of_layer = tuple(used.index(module) for module in module_of_layer)
        gaze, _ = official_gaze_encoding(scanpath.to(x.device), frame_times_s, self.dim)
        if len(scanpath) == 0:
            base = x.new_zeros(len(used), *x.shape[:2], self.hidden_dim)
        else:
            stacks = self._stacked()
            if len(used) < len(self.layers):
                stacks = {name: tensor[used] for name, tensor in stacks.items()}
            base = self._residual(x, gaze.to(x.dtype), stacks)
        return Residuals(chosen, base, base_of_layer, self.amplitude[list(chosen)])

    def _features(self, features: Tensor | Sequence[Tensor], steps: int) -> Tensor:
        if isinstance(features, Tensor):
            x = features
        else:
            shapes = sorted({tuple(step.shape) for step in features})
            if len(shapes) != 1:
                raise InputError("features", expected="one shape (P, channels) for all steps", found=str(shapes))
            x = torch.stack(list(features))
        if x.ndim != 3 or x.shape[0] != steps or x.shape[2] != self.feature_dim:
            raise InputError("features", expected=f"shape ({steps}, P, {self.feature_dim})", found=str(tuple(x.shape)))
        return x.to(self.amplitude.dtype)

    def _residual(self, features: Tensor, gaze: Tensor, stacks: dict[str, Tensor]) -> Tensor:
        """Features (T, P, c) and gaze (T, d) -> (M, T, P, D) for the M modules in `stacks`, before the amplitude."""
        steps, patches, _ = features.shape
        modules, n_latents, d = stacks["latents"].shape
        x = F.linear(features, stacks["proj_in"].flatten(0, 1))  # one product for all modules
        x = rearrange(x, "t p (m d) -> m t p d", m=modules).contiguous()
        latents = repeat(stacks["latents"], "m l d -> m t l d", t=steps)
        blocks = stacks["key"].shape[1]
        for b in range(blocks):

            def linear(rows: Tensor, name: str, b: int = b) -> Tensor:
                """(M, T, L, in) -> (M, T, L, out) with each module's own weights of this block."""
                out = torch.baddbmm(
                    stacks[f"{name}.bias"][:, b, None], rows.flatten(1, 2), stacks[f"{name}.weight"][:, b].mT
                )
                return out.unflatten(1, (steps, n_latents))

            query = linear(latents, "query") * d**-0.5
            asks = torch.matmul(query.flatten(1, 2), stacks["key"][:, b]).unflatten(1, (steps, n_latents))
            seen = (gaze @ stacks["gaze"][:, b].mT)[..., None]  # (M, T, d, 1): gp(g) without its bias
            tokens = torch.cat([x, latents], dim=2)
            scores = asks @ tokens.mT  # (M, T, L, P+L)
            scores[..., :patches] += query @ seen
            pooled = torch.softmax(scores, dim=-1) @ tokens
            latents = latents + linear(pooled, "value")
            inner = F.gelu(linear(self._norm(latents, stacks, "ff_norm", b), "ff_in"))
            latents = self._norm(latents + linear(inner, "ff_out"), stacks, "norm", b)
        weights = torch.softmax(x @ latents.mT * d**-0.5, dim=-1)  # (M, T, P, L)
        out = stacks["proj_out"]
        if n_latents * (d + patches) < patches * d:  # fewer products when the latents, not the tokens, are projected
            hidden = (latents.flatten(1, 2) @ out.mT).unflatten(1, (steps, n_latents))
            return weights @ hidden
        return ((weights @ latents).flatten(1, 2) @ out.mT).unflatten(1, (steps, patches))

    @staticmethod
    def _norm(rows: Tensor, stacks: dict[str, Tensor], name: str, b: int) -> Tensor:
        scale, shift = stacks[f"{name}.weight"][:, b, None, None], stacks[f"{name}.bias"][:, b, None, None]
        return torch.addcmul(shift, F.layer_norm(rows, rows.shape[-1:]), scale)

    def _stacked(self) -> dict[str, Tensor]:
        """The modules' weights stacked: (M, ...) or (M, blocks, ...).

        With gradients they are stacked anew in every call. Without, the last stacks are kept while no parameter has
        moved or changed in place (autograd counts both; writing to `parameter.data` is the one thing it can't see).
        """
        parameters = list(self.parameters())
        if torch.is_grad_enabled() or any(p.is_inference() for p in parameters):
            self._stacks = None
            return self._stack()
        state = tuple((p.data_ptr(), p._version) for p in parameters)
        if self._stacks is None or self._stacks[0] != state:
            self._stacks = (state, self._stack())
        return self._stacks[1]

    def _stack(self) -> dict[str, Tensor]:
        modules, blocks = range(len(self.layers)), range(len(self.block_norms[0]))  # type: ignore[arg-type]
        parameters = dict(self.named_parameters())

        def per_module(pattern: str) -> Tensor:
            return torch.stack([parameters[pattern.format(m=m)] for m in modules])

        def per_block(pattern: str) -> Tensor:
            return torch.stack([torch.stack([parameters[pattern.format(m=m, b=b)] for b in blocks]) for m in modules])

        stacks = {
            "latents": per_module("latents.{m}"),
            "proj_in": per_module("proj_ins.{m}.weight"),
            "proj_out": per_module("proj_outs.{m}.weight"),
            "key": per_block("k_projs.{m}.{b}.weight"),
            "gaze": per_block("g_projs.{m}.{b}.weight"),
        }
        for name, path in (
            ("query", "q_projs.{m}.{b}"),
            ("value", "v_projs.{m}.{b}"),
            ("ff_norm", "ff_blocks.{m}.{b}.0"),
            ("ff_in", "ff_blocks.{m}.{b}.1"),
            ("ff_out", "ff_blocks.{m}.{b}.3"),
            ("norm", "block_norms.{m}.{b}"),
        ):
            stacks[f"{name}.weight"], stacks[f"{name}.bias"] = per_block(path + ".weight"), per_block(path + ".bias")
        return stacks


class SkipResampler(nn.Module):
    """The least that can carry gaze (arm `skip-only`): one learned vector times a Gaussian around the step's gaze, the
    same at every layer. No latents, and nothing of the features but their grid.

    The Gaussian is `LocalGazeEncoding`'s of the middle one of its sigmas, pooled over the step's events as there; steps
    without valid gaze get exactly nothing. The vector starts at zero.

    Args:
        config: `kind="skip"`; only `layers` and `allow_last_layer` are read.
        encoding: the `local` gaze encoding.
        hidden_dim, n_layers: as for GazeResampler.

    Raises:
        ConfigError: another kind or encoding, or layers the decoder doesn't have.
    """

    def __init__(
        self, config: ResamplerConfig, encoding: GazeEncodingConfig, *, hidden_dim: int, n_layers: int
    ) -> None:
        super().__init__()
        if config.kind != "skip":
            raise ConfigError(f"SkipResampler needs resampler.kind='skip', got {config.kind!r}")
        self.layers = config.layer_indices(n_layers)
        sigma = sorted(encoding.sigmas)[len(encoding.sigmas) // 2]
        self.gaze_encoding = LocalGazeEncoding(replace(encoding, frequencies=1, sigmas=(sigma,)))
        self.vector = nn.Parameter(torch.zeros(hidden_dim))

    def forward(self, features: Tensor, gaze: GazeBatch) -> Residuals:
        """As GazeResampler; of `features` (S, K, h, w, any) only the shape is read.

        Raises:
            InputError: the shapes don't fit each other.
        """
        if features.ndim != 5 or len(features) != len(gaze):
            raise InputError(
                "features",
                expected=f"shape (S, K, h, w, any) for {len(gaze)} steps of gaze",
                found=str(tuple(features.shape)),
            )
        bell = self.gaze_encoding(gaze, *features.shape[2:4])[..., self.gaze_encoding.bells]  # (S, P, 1)
        return Residuals(self.layers, (bell.to(self.vector.dtype) * self.vector)[None], (0,) * len(self.layers))


Resampler = GazeResampler | OfficialResampler | SkipResampler


def build_resampler(config: GazeQwenConfig, *, feature_dim: int, hidden_dim: int, n_layers: int) -> Resampler:
    """The resampler that a model's config names."""
    if config.resampler.kind == "skip":
        return SkipResampler(config.resampler, config.gaze_encoding, hidden_dim=hidden_dim, n_layers=n_layers)
    if config.resampler.kind == "official":
        return OfficialResampler(config.resampler, feature_dim=feature_dim, hidden_dim=hidden_dim, n_layers=n_layers)
    return GazeResampler(
        config.resampler, config.gaze_encoding, feature_dim=feature_dim, hidden_dim=hidden_dim, n_layers=n_layers
    )
