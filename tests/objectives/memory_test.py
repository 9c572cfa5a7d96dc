"""What updates hold at real vocabularies: the compiled program is asked, nothing is run.

B rows, L columns, G completion columns, V vocabulary.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdsd_jax import models, objectives, scoring
from gdsd_jax.objectives import opd
from gdsd_jax.optimizer import OptimizerConfig, init_state, make_optimizer, make_update
from gdsd_jax.types import Batch
from tests.reference import tiny

B, P, G, V = 8, 32, 256, 126_464
SHIFTED = dict(shift=True, attention="causal")


def compiled_update():
    """One optimizer step of full fine-tuning on a narrow model, whose own weights hide nothing."""
    model = tiny(vocab_size=V, d_model=64, layers=1, remat="full")
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-5))
    loss_fn = objectives.make_loss_fn("gdsd", models.make_denoiser(model), objectives.GdsdConfig())
    state = jax.eval_shape(
        lambda rng: init_state(models.init_params(model, rng), optimizer), jax.random.key(0)
    )
    a = jax.ShapeDtypeStruct
    slices = Batch(
        tokens_BxL=a((1, B, P + G), jnp.int32),
        valid_BxL=a((1, B, P + G), bool),
        completion_len_B=a((1, B), jnp.int32),
        masks_KxBxL=a((1, 1, B, P + G), bool),
        advantages_B=a((1, B), jnp.float32),
        old_KxB=a((1, 1, B), jnp.float32),
        prompt_len=P,
    )
    update = jax.jit(make_update(loss_fn, optimizer), donate_argnums=0)
    return update.lower(state, {}, slices).compile()


def held(compiled) -> int:
    """Bytes: the state, which is updated in place, and temporaries."""
    memory = compiled.memory_analysis()
    return memory.argument_size_in_bytes + memory.temp_size_in_bytes


def largest_of_vocabulary(compiled) -> int:
    """float32 columns of the vocabulary in the program's largest array."""
    shapes = [
        [int(x) for x in dims.split(",")]
        for dims in re.findall(r"f32\[([\d,]+)\]", compiled.as_text())
    ]
    return max(int(np.prod(shape)) // V for shape in shapes if V in shape)


@pytest.mark.slow
def test_the_vocabulary_is_never_whole(monkeypatch):
    """Never completion x vocabulary in float32, not even of one row.

    And under 40% of what one projection of all columns of a pair holds, which is itself half of a
    projection for each half.
    """
    ours = compiled_update()
    monkeypatch.setattr(scoring, "CHUNK_BYTES", 4 * B * G * V)
    plain = compiled_update()
    assert largest_of_vocabulary(plain) == B * G
    assert largest_of_vocabulary(ours) < G
    assert held(ours) < 0.4 * held(plain), (held(ours), held(plain))


# ---------------------------------------------------------------- at Qwen3's vocabulary


def test_two_models_logits_are_never_whole():
    """One answer of 1,024 tokens: value and gradient under a quarter of both whole logits."""
    student = tiny(vocab_size=151_936, d_model=32, layers=1, qk_norm=True)
    denoiser = models.make_denoiser(student)
    config = objectives.OpdConfig(
        teacher=models.make_denoiser(
            tiny(**SHIFTED, vocab_size=151_936, d_model=32, layers=1, qk_norm=True)
        )
    )
    a, prompt_len, columns = jax.ShapeDtypeStruct, 32, 32 + 1024
    batch = Batch(
        tokens_BxL=a((1, columns), jnp.int32),
        valid_BxL=a((1, columns), bool),
        completion_len_B=a((1,), jnp.int32),
        masks_KxBxL=a((1, 1, columns), bool),
        prompt_len=prompt_len,
        block=4,
    )
    params = models.param_shapes(student)

    def ours(params, teacher_params, batch):
        return opd.loss(denoiser, config, params, batch, teacher_params)[0]

    def plain(params, teacher_params, batch):
        (h_BxGxD,) = scoring.view_features(denoiser, params, batch, batch.masks_KxBxL)
        target_BxGxD = opd.teacher_features(config.teacher, teacher_params, batch)
        t_BxGxV, s_BxGxV = (
            jax.nn.log_softmax(model.unembed(weights, x), axis=-1)
            for model, weights, x in (
                (config.teacher, teacher_params, target_BxGxD),
                (denoiser, params, h_BxGxD),
            )
        )
        mask_BxG = batch.masks_KxBxL[0, :, prompt_len:]
        return jnp.sum(
            jnp.where(mask_BxG, jnp.sum(jnp.exp(t_BxGxV) * (t_BxGxV - s_BxGxV), axis=-1), 0.0)
        ) / jnp.sum(mask_BxG)

    chunked, whole = (
        held(jax.jit(jax.value_and_grad(fn)).lower(params, params, batch).compile())
        for fn in (ours, plain)
    )
    print(f"{chunked / 2**20:,.0f} MiB against {whole / 2**20:,.0f} MiB")
    assert whole > 2 * 4 * 1024 * 151_936 and chunked < 0.25 * whole, (chunked, whole)
