"""GazeResampler and the published module: identity at the start, gradients, equivalences, and what gaze changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.speed.resampler import WIDTHS, Width, published_loop, published_residual, resampler_vs_loop
from benchmarks.speed.resampler import seeded_inputs as official_inputs
from benchmarks.speed.resampler import seeded_module as official_module
from gazeqwen.config import GazeEncodingConfig, ResamplerConfig
from gazeqwen.errors import ConfigError, InjectionError, InputError
from gazeqwen.gaze_encoding import GazeBatch
from gazeqwen.resampler import GazeResampler, OfficialResampler, Residuals
from tests.conftest import shared_dir
from tests.golden import section_01

FIXED = ResamplerConfig(dim=16, latents=4, heads=2, layers=(0.25, 0.75))
LEARNED = replace(FIXED, layers="learned")
STEPS, TUBELETS, H, W, CHANNELS, HIDDEN, LAYERS = 4, 3, 3, 4, 10, 12, 8
BOTH = pytest.mark.parametrize("config", [FIXED, LEARNED], ids=["fixed", "learned"])
SMALL = Width(steps=3, patches=5, dim=16, latents=3, feature_dim=6, hidden_dim=7)


def build(config: ResamplerConfig = FIXED, *, awake: bool = True) -> GazeResampler:
    """A small resampler; `awake` gives the zero output layer numbers."""
    torch.manual_seed(0)
    module = GazeResampler(
        config, GazeEncodingConfig(), feature_dim=CHANNELS, hidden_dim=HIDDEN, n_layers=LAYERS
    ).eval()
    if awake:
        torch.nn.init.normal_(module.to_hidden.weight)
    return module


def gaze_batch(*xy: tuple[float, float] | None) -> GazeBatch:
    """One event a step, or none."""
    valid = torch.tensor([[place is not None] for place in xy])
    places = torch.tensor([[place or (0.0, 0.0)] for place in xy])
    return GazeBatch(places, torch.full(valid.shape, 0.1), torch.full(valid.shape, 0.3) * valid, valid)


def inputs(seed: int = 1) -> tuple[Tensor, GazeBatch]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(STEPS, TUBELETS, H, W, CHANNELS, generator=generator)
    return features, gaze_batch((0.1, 0.2), None, (0.8, 0.9), (0.5, 0.5))


def all_layers(residuals: Residuals) -> Tensor:
    return torch.stack([residuals.for_layer(layer) for layer in residuals.layers])


def test_without_the_skip_all_goes_through_the_latents() -> None:
    features, gaze = inputs()
    full, without = build(), build(replace(FIXED, skip=False))
    assert without.skip is None and not any(name.startswith("skip.") for name in without.state_dict())
    assert len(full.state_dict()) == len(without.state_dict()) + 4
    with torch.no_grad():
        full.skip[2].weight.zero_(), full.skip[2].bias.zero_()  # type: ignore[index,union-attr]
        same = {name: tensor for name, tensor in full.state_dict().items() if not name.startswith("skip.")}
        without.load_state_dict(same)
        torch.testing.assert_close(all_layers(full(features, gaze)), all_layers(without(features, gaze)))


def test_the_broadcast_encoding_reaches_a_token_only_through_all() -> None:
    """One vector a step: where gaze is changes the residuals, but no token knows that it is at gaze."""
    torch.manual_seed(0)
    encoding = GazeEncodingConfig(name="broadcast")
    module = GazeResampler(FIXED, encoding, feature_dim=CHANNELS, hidden_dim=HIDDEN, n_layers=LAYERS).eval()
    torch.nn.init.normal_(module.to_hidden.weight)
    features = torch.ones(1, TUBELETS, H, W, CHANNELS)
    here, there = (all_layers(module(features, gaze_batch(xy))) for xy in ((0.1, 0.1), (0.9, 0.9)))
    assert not torch.allclose(here, there)
    torch.testing.assert_close(here, here[:, :, :1].expand_as(here))  # equal tokens, equal residuals


# -- GazeResampler -----------------------------------------------------------------------------------------------------


@BOTH
def test_every_residual_is_exactly_zero_at_the_start(config: ResamplerConfig) -> None:
    residuals = all_layers(build(config, awake=False)(*inputs()))
    assert residuals.shape[1:] == (STEPS, H * W, HIDDEN) and (residuals == 0).all()


@pytest.mark.parametrize("layers", [(0.25, 0.5, 0.75), "learned"])
def test_one_to_five_million_parameters_at_7b(layers: tuple[float, ...] | str) -> None:
    config = replace(ResamplerConfig(), layers=layers)
    with torch.device("meta"):
        module = GazeResampler(config, GazeEncodingConfig(), feature_dim=768, hidden_dim=3584, n_layers=28)
    count = sum(p.numel() for p in module.parameters())
    assert 1_000_000 <= count <= 5_000_000
    assert all(p.requires_grad for p in module.parameters())


@BOTH
def test_gradients_reach_every_parameter_once_the_output_is_not_zero(config: ResamplerConfig) -> None:
    module = build(config, awake=False).train()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    target = torch.randn(STEPS, H * W, HIDDEN)
    for update in range(2):
        loss = (all_layers(module(*inputs())).sum(dim=0) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        grads = {name: float(p.grad.abs().max()) for name, p in module.named_parameters() if p.grad is not None}
        reached = {name for name, size in grads.items() if size > 1e-8}
        if update == 0:
            assert reached == {"to_hidden.weight"}
        optimizer.step()
    assert reached == {name for name, _ in module.named_parameters()}


@BOTH
def test_steps_together_equal_steps_one_by_one(config: ResamplerConfig) -> None:
    module, (features, gaze) = build(config), inputs()
    together = module(features, gaze)
    for s in range(STEPS):
        alone = module(features[s : s + 1], gaze.select([s]))
        torch.testing.assert_close(all_layers(together.select([s])), all_layers(alone), rtol=0, atol=1e-5)
    assert module(features[:0], gaze.select([])).for_layer(together.layers[0]).shape == (0, H * W, HIDDEN)


def test_attention_is_what_the_residuals_were_made_with() -> None:
    module, (features, gaze) = build(), inputs()
    xy = gaze.xy_norm.clone().requires_grad_()
    residuals, attention = module(features, replace(gaze, xy_norm=xy), return_attention=True)
    assert attention.shape == (STEPS, FIXED.latents, H * W)
    torch.testing.assert_close(attention.sum(dim=-1), torch.ones(STEPS, FIXED.latents))
    torch.testing.assert_close(all_layers(residuals), all_layers(module(features, gaze)), rtol=0, atol=1e-5)
    (grad,) = torch.autograd.grad(attention.square().sum(), xy)
    assert (grad[gaze.valid] != 0).any(dim=-1).all() and (grad[~gaze.valid] == 0).all()
    moved = module(features, gaze_batch(*[(0.9, 0.1)] * STEPS), return_attention=True)[1]
    assert float((moved - attention).detach().abs().max()) > 1e-4  # among patches: the published encoding can't do this


def test_gaze_changes_only_its_own_step_and_null_is_a_gaze_of_its_own() -> None:
    module, (features, gaze) = build(), inputs()
    before = module(features, gaze).detach().base
    after = module(features, gaze_batch((0.1, 0.2), (0.3, 0.3), (0.8, 0.9), (0.5, 0.5))).detach().base
    changed = (before - after).abs().amax(dim=(0, 2, 3))
    assert float(changed[1]) > 1e-3 and float(changed[[0, 2, 3]].max()) < 1e-6
    with torch.no_grad():
        module.null_gaze.add_(1.0)
    shifted = (module(features, gaze).detach().base - before).abs().amax(dim=(0, 2, 3))
    assert float(shifted[1]) > 1e-3 and float(shifted[[0, 2, 3]].max()) < 1e-6


def test_older_tubelets_are_ordered_by_their_age_and_the_newest_asks() -> None:
    module, (features, gaze) = build(), inputs()
    before, older_swapped, newest_swapped = features, features[:, [1, 0, 2]], features[:, [0, 2, 1]]

    def change(to: Tensor) -> float:
        return float((module(to, gaze).base - module(before, gaze).base).detach().abs().max())

    with torch.no_grad():
        module.tubelet_age.zero_()
        assert change(older_swapped) < 1e-5 and change(newest_swapped) > 1e-2
        module.tubelet_age.normal_()
        assert change(older_swapped) > 1e-3


def test_gaze_reaches_its_token_past_the_latents() -> None:
    """tiny.md measured 28 % without this path and 82 to 94 % with it."""
    module, (features, gaze) = build(), inputs()
    moved = gaze_batch((0.9, 0.9), None, (0.8, 0.9), (0.5, 0.5))
    with torch.no_grad():
        for parameter in (*module.read.parameters(), module.gaze_proj.weight):
            parameter.zero_()
        changed = (module(features, moved).base - module(features, gaze).base).abs().amax(dim=(0, 3))
    assert float(changed[0].min()) > 1e-3 and float(changed[1:].max()) < 1e-6


def test_the_residual_learns_which_token_was_looked_at() -> None:
    """In 150 updates on noise features: gaze reaches single tokens, also those never looked at in the same batch."""
    module = build(awake=False).train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)

    def sample(n: int) -> tuple[Tensor, GazeBatch, Tensor]:
        cell = torch.randint(H * W, (n,))
        xy = torch.stack([(cell % W + torch.rand(n)) / W, (cell // W + torch.rand(n)) / H], dim=-1)
        features = torch.randn(n, 1, H, W, CHANNELS)
        return features, gaze_batch(*[(float(x), float(y)) for x, y in xy]), cell

    for _ in range(150):
        features, gaze, cell = sample(32)
        loss = torch.nn.functional.cross_entropy(module(features, gaze).for_layer(module.layers[0])[..., 0], cell)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    features, gaze, cell = sample(200)
    with torch.no_grad():
        right = module(features, gaze).for_layer(module.layers[0])[..., 0].argmax(dim=-1) == cell
        mixed = module(features, gaze.select(torch.randperm(200))).for_layer(module.layers[0])[..., 0].argmax(-1)
    assert float(right.float().mean()) > 0.8
    assert float((mixed == cell).float().mean()) < 0.3


def test_learned_layers_share_one_tensor_and_differ_by_their_gate() -> None:
    module, (features, gaze) = build(LEARNED), inputs()
    with torch.no_grad():
        module.layer_gate.copy_(torch.arange(1.0, LAYERS))
    residuals = module(features, gaze)
    assert residuals.layers == tuple(range(LAYERS - 1)) and residuals.base.shape[0] == 1
    torch.testing.assert_close(residuals.for_layer(3), 4 * residuals.for_layer(0))


def test_fixed_layers_are_depth_fractions_and_each_has_its_own_scale_and_shift() -> None:
    module, (features, gaze) = build(), inputs()
    assert module.layers == (1, 5)
    first, second = (module(features, gaze).for_layer(layer) for layer in module.layers)
    assert torch.equal(first, second)  # one head, scale 1, shift 0
    with torch.no_grad():
        module.layer_scale[1] = 2.0
    torch.testing.assert_close(module(features, gaze).for_layer(5), 2 * first)
    with torch.no_grad():
        module.layer_shift[1] = 1.0
    moved = module(features, gaze).for_layer(5)
    torch.testing.assert_close(moved, 2 * first + module.to_hidden.weight.sum(dim=1), rtol=0, atol=1e-5)
    with pytest.raises(ConfigError, match="last one"):
        build(replace(FIXED, layers=(LAYERS - 1,)))


def test_residuals_select_detach_and_refuse_other_layers() -> None:
    residuals = build(LEARNED)(*inputs())
    for chosen in (slice(1, 3), [1, 2], torch.tensor([False, True, True, False])):
        assert torch.equal(residuals.select(chosen).for_layer(2), residuals.for_layer(2)[1:3])
    assert residuals.for_layer(0).requires_grad and not residuals.detach().for_layer(0).requires_grad
    assert replace(residuals, base=residuals.base.bfloat16()).for_layer(0).dtype == torch.float32
    with pytest.raises(InjectionError, match="layer 7 has no residual"):
        residuals.for_layer(7)


@BOTH
def test_saved_equals_loaded_bit_for_bit_and_runs_repeat(config: ResamplerConfig, tmp_path: Path) -> None:
    module = build(config)
    save_file(module.state_dict(), tmp_path / "model.safetensors")
    other = GazeResampler(config, GazeEncodingConfig(), feature_dim=CHANNELS, hidden_dim=HIDDEN, n_layers=LAYERS)
    other.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)
    first, again, loaded = (all_layers(m(*inputs())) for m in (module, module, other))
    assert torch.equal(first, again) and torch.equal(first, loaded)


def test_gaze_resampler_refuses_what_does_not_fit() -> None:
    module, (features, gaze) = build(), inputs()
    with pytest.raises(InputError, match=r"features: expected shape \(S, K >= 1, h, w, 10\), found \(4, 3, 3, 4, 9\)"):
        module(features[..., :9], gaze)
    with pytest.raises(InputError, match="4 steps"):
        module(features, gaze.select([0]))
    with pytest.raises(ConfigError, match="kind"):
        build(replace(FIXED, kind="official"))


# -- published module --------------------------------------------------------------------------------------------------


def test_golden_01() -> None:
    error, tolerance = section_01.check(shared_dir("golden"))
    assert error <= tolerance


def test_published_size_has_the_published_number_of_tensors_and_parameters() -> None:
    config = ResamplerConfig(kind="official", heads=1, layers=(6, 13, 20, 27), allow_last_layer=True)
    with torch.device("meta"):
        module = OfficialResampler(config, feature_dim=768, hidden_dim=3584, n_layers=28)
    assert len(module.state_dict()) == 141
    assert sum(p.numel() for p in module.parameters()) == 10_807_324


@pytest.mark.parametrize("sizes", [SMALL, replace(SMALL, patches=1), replace(SMALL, latents=1, patches=9)])
def test_batched_equals_one_call_per_layer_and_step(sizes: Width) -> None:
    module = official_module(sizes)
    features, scanpath, times_s = official_inputs(sizes, torch.device("cpu"))
    times_s[-1] = 500.0  # no active fixation there
    loop = published_loop(module, features, scanpath, times_s)
    assert loop.std() > 0.1
    for given in (features, list(features)):
        torch.testing.assert_close(all_layers(module(given, scanpath, times_s)), loop, rtol=0, atol=1e-5)


def test_a_layer_without_a_module_uses_module_0_with_its_own_amplitude() -> None:
    module = official_module(SMALL)
    features, scanpath, times_s = official_inputs(SMALL, torch.device("cpu"))
    residuals = module(features, scanpath, times_s, layers=[20, 5, 6])
    assert residuals.layers == (20, 5, 6) and residuals.base.shape[0] == 2
    for layer in residuals.layers:
        want = published_residual(module, features[1], scanpath, times_s[1], layer=layer)
        torch.testing.assert_close(residuals.for_layer(layer)[1], want, rtol=0, atol=1e-5)
    ratio = module.amplitude[5] / module.amplitude[6]
    torch.testing.assert_close(residuals.for_layer(5), residuals.for_layer(6) * ratio, rtol=1e-4, atol=1e-6)


def test_an_empty_scanpath_is_zero_but_inactive_gaze_is_not() -> None:
    module = official_module(SMALL)
    features, scanpath, _ = official_inputs(SMALL, torch.device("cpu"))
    times_s = [900.0] * SMALL.steps
    assert (all_layers(module(features, torch.zeros(0, 4), times_s)) == 0).all()
    assert float(all_layers(module(features, scanpath, times_s)).detach().abs().max()) > 0.1


def test_gradients_equal_those_of_the_loop() -> None:
    module = official_module(SMALL)
    features, scanpath, times_s = official_inputs(SMALL, torch.device("cpu"))
    target = torch.randn(4, SMALL.steps, SMALL.patches, SMALL.hidden_dim)
    with torch.no_grad():
        module(features, scanpath, times_s)  # keeps stacked weights, which training must not use
    grads = []
    for residuals in (
        all_layers(module(features, scanpath, times_s)),
        published_loop(module, features, scanpath, times_s),
    ):
        module.zero_grad()
        (residuals - target).square().mean().backward()
        grads.append(
            {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in module.named_parameters()}
        )
    assert sum(float(g.abs().sum()) > 1e-4 for g in grads[1].values()) > 100
    for name, want in grads[1].items():
        torch.testing.assert_close(grads[0][name], want, rtol=1e-3, atol=2e-6, msg=name)


def test_kept_weights_follow_every_change() -> None:
    module, other = official_module(SMALL), official_module(SMALL, seed=5)
    given = official_inputs(SMALL, torch.device("cpu"))

    def check() -> None:
        with torch.inference_mode():
            ours, loop = all_layers(module(*given)), published_loop(module, *given)
        torch.testing.assert_close(ours, loop, rtol=0, atol=1e-5)

    check()
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    all_layers(module(*given)).square().mean().backward()
    optimizer.step()
    check()
    with torch.no_grad():
        module.q_projs[1][0].weight.mul_(3.0)  # type: ignore[index, union-attr]
    check()
    module.load_state_dict(other.state_dict())
    check()
    module.double().float()
    check()


def test_published_module_starts_at_zero_and_refuses_what_does_not_fit() -> None:
    config = ResamplerConfig(kind="official", dim=8, heads=1, layers=(6, 13, 20, 27), allow_last_layer=True)
    module = OfficialResampler(config, feature_dim=6, hidden_dim=7, n_layers=28)
    features, scanpath, times_s = official_inputs(SMALL, torch.device("cpu"))
    assert (all_layers(module(features, scanpath, times_s)) == 0).all()
    with pytest.raises(InputError, match=r"shape \(3, P, 6\)"):
        module(features[:2], scanpath, times_s)
    with pytest.raises(InputError, match="one shape"):
        module([features[0], features[1, :2], features[2]], scanpath, times_s)
    with pytest.raises(ConfigError, match=r"layers 0\.\.27"):
        module(features, scanpath, times_s, layers=[28])
    with pytest.raises(ConfigError, match="indices"):
        OfficialResampler(replace(config, layers=(0.25,)), feature_dim=6, hidden_dim=7, n_layers=28)
    with pytest.raises(ConfigError, match=r"layers 0\.\.11"):
        OfficialResampler(config, feature_dim=6, hidden_dim=7, n_layers=12)


def test_the_speed_comparison_reports_both_sides_and_checks_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WIDTHS, "tiny", SMALL)
    monkeypatch.setitem(WIDTHS, "7b", replace(SMALL, hidden_dim=512))
    result = resampler_vs_loop(2)
    assert result["ratio"] > 0 and result["repeats"] == 2 and result["unit"] == "s"
    assert set(result["parts"]) == {"loop", "ours"} and all(seconds > 0 for seconds in result["parts"].values())
    assert "output_projection_share" in resampler_vs_loop(1, width="7b")["parts"]
    assert result["max_difference"] <= 1e-5
    monkeypatch.setattr("benchmarks.speed.resampler.TOLERANCE", -1.0)
    with pytest.raises(InputError, match="equal within"):
        resampler_vs_loop(1)
    with pytest.raises(InputError, match="at least 1"):
        resampler_vs_loop(0)
