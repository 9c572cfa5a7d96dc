"""On-policy distillation against float64 NumPy loops and finite differences.

Written from arXiv 2606.06712 and its released code. B rows, P prompt and G completion columns, V
vocabulary.
"""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdsd_jax import models, objectives, scoring
from gdsd_jax.objectives import ArConfig, OpdConfig, opd
from gdsd_jax.types import Batch, Denoiser
from tests import reference
from tests.reference import MASK, PAD, log_softmax, random_params, tiny

P, G, BLOCK, V = 5, 8, 4, 24
STOP = 9
MODEL = tiny(vocab_size=V, layers=1, qk_norm=True, stop_ids=(STOP, PAD))
TEACHER = dataclasses.replace(MODEL, shift=True, attention="causal")


# ---------------------------------------------------------------- the divergence


def restricted(kind, t, s, weight, k):
    """Plain sums over the teacher's k likeliest tokens, full softmaxes, float64."""
    t, s = log_softmax(t), log_softmax(s)
    total = 0.0
    m = np.log(weight * np.exp(t) + (1 - weight) * np.exp(s))
    for v in np.argsort(-t, kind="stable")[:k]:
        forward, reverse = np.exp(t[v]) * (t[v] - s[v]), np.exp(s[v]) * (s[v] - t[v])
        jsd = weight * np.exp(t[v]) * (t[v] - m[v]) + (1 - weight) * np.exp(s[v]) * (s[v] - m[v])
        total += {
            "forward": forward,
            "reverse": reverse,
            "mixed": (1 - weight) * forward + weight * reverse,
            "jsd": jsd,
        }[kind]
    return total


LOGITS = 3 * np.random.default_rng(0).standard_normal((2, 5, V))


@pytest.mark.parametrize("k", [None, 3])
@pytest.mark.parametrize("kind", ["forward", "reverse", "mixed", "jsd"])
def test_divergences_are_their_sums(kind, k):
    config = OpdConfig(divergence=kind, weight=0.3, top_k=k)
    found = opd.divergence(config, *jnp.asarray(LOGITS, jnp.float32))
    wanted = [restricted(kind, t, s, 0.3, k or V) for t, s in zip(*LOGITS)]
    np.testing.assert_allclose(found, wanted, atol=3e-6)  # float32 sums of 24 terms of order 1


def test_all_of_the_vocabulary_is_the_full_divergence():
    logits = jnp.asarray(LOGITS, jnp.float32)
    for kind in ("forward", "reverse", "mixed", "jsd"):
        full, sparse, wider = (
            opd.divergence(OpdConfig(divergence=kind, top_k=k), *logits) for k in (None, V, V + 5)
        )
        np.testing.assert_allclose(full, sparse, atol=1e-6, rtol=1e-6)
        np.testing.assert_array_equal(sparse, wider)


def test_gradient_is_the_formula_and_the_finite_difference():
    """Towards student logits: P_T(K) p_S(v) - 1[v in K] p_T(v)."""
    (t, s), k = (LOGITS[0, 0], LOGITS[1, 0]), 4

    def cost(x):
        return opd.divergence(OpdConfig(top_k=k), jnp.asarray(t, jnp.float32), x)

    gradient = jax.grad(cost)(jnp.asarray(s, jnp.float32))
    p_t, p_s, best = np.exp(log_softmax(t)), np.exp(log_softmax(s)), np.argsort(-t)[:k]
    formula = p_t[best].sum() * p_s - np.isin(np.arange(V), best) * p_t
    np.testing.assert_allclose(gradient, formula, atol=1e-6)
    h = 1e-5
    moved = [
        [restricted("forward", t, s + sign * h * np.eye(V)[v], 0.5, k) for sign in (1, -1)]
        for v in range(V)
    ]
    # h^2
    np.testing.assert_allclose(formula, [(up - down) / (2 * h) for up, down in moved], atol=1e-8)


def test_what_is_ruled_out_counts_nothing():
    """-inf logits: no NaN in value or gradient, of either model."""
    t, s = jnp.asarray(LOGITS[:, 0], jnp.float32).at[:, 3].set(-jnp.inf)
    for kind in ("forward", "reverse", "mixed", "jsd"):
        value, gradient = jax.value_and_grad(
            lambda x, kind=kind: opd.divergence(OpdConfig(divergence=kind), t, x)
        )(s)
        rest = np.arange(V) != 3
        wanted = restricted(kind, LOGITS[0, 0][rest], LOGITS[1, 0][rest], 0.5, V)
        assert value == pytest.approx(wanted, abs=3e-6) and np.isfinite(gradient).all(), kind


@pytest.mark.parametrize(
    "options, word",
    [
        (dict(divergence="tv"), "divergence"),
        (dict(states="last"), "states"),
        (dict(top_k=0), "top_k"),
        (dict(weight=1.5), "weight"),
    ],
)
def test_impossible_settings_are_refused(options, word):
    with pytest.raises(ValueError, match=word):
        OpdConfig(**options)


# ---------------------------------------------------------------- the loss


@pytest.mark.parametrize("gen", [4, 7, 12])
@pytest.mark.parametrize("prompt_len", [1, 5, 8])
def test_who_attends_to_whom_in_the_doubled_row(prompt_len, gen):
    """The rows of padding columns are not compared: nobody reads them."""
    valid = np.ones((2, prompt_len + 2 * gen), bool)
    valid[1, : prompt_len // 2] = False
    spec = models.Doubled(prompt_len, BLOCK)
    found = np.asarray(models.attention_mask(spec, jnp.asarray(valid), valid.shape[1]))
    wanted = reference.allowed_doubled(prompt_len, gen, BLOCK)[None] & valid[:, None, :]
    np.testing.assert_array_equal(found[:, 0][valid], wanted[valid])


def make_batch() -> Batch:
    """A state of each row: row 0 is cut by the cap, row 1 stops at 6, row 2 has no mask."""
    rng = np.random.default_rng(2)
    tokens = rng.integers(10, V, (3, P + G)).astype(np.int32)
    valid = np.ones(tokens.shape, bool)
    valid[1, :3], tokens[1, :3] = False, PAD
    tokens[1, P + 5] = STOP
    masked = np.zeros((1, 3, P + G), bool)
    masked[0, :2, P:] = np.array([[0, 1, 1, 0, 1, 1, 1, 0], [1, 1, 1, 1, 0, 1, 1, 1]], bool)
    arrays = dict(
        tokens_BxL=tokens,
        valid_BxL=valid,
        completion_len_B=np.array([8, 6, 8], np.int32),
        masks_KxBxL=masked,
    )
    return Batch(**jax.tree.map(jnp.asarray, arrays), prompt_len=P, block=BLOCK)


def student_logits(params, batch):
    """float64 [B, G, V] from the doubled row."""
    view = np.where(batch.masks_KxBxL[0], MASK, batch.tokens_BxL)
    return reference.doubled_logits(
        MODEL, params, batch.tokens_BxL, view, batch.valid_BxL, P, BLOCK
    )


def teacher_logits(params, batch):
    """float64 [B, G, V] by the released query: [prompt | answer | answer] under the doubled mask.

    It is causal inside each part. The state before the first answer token is the prompt's last. Of
    the others it is the one before, which stands in the clean part where a block begins.
    """
    tokens = np.asarray(batch.tokens_BxL)
    args = tokens, tokens, batch.valid_BxL, P
    within = reference.doubled_logits(MODEL, params, *args, BLOCK, causal=True)
    causal = np.tril(np.ones((P + G,) * 2, bool))
    first = reference.forward(
        MODEL, params, tokens, np.asarray(batch.valid_BxL), allowed_LxL=causal
    )[:, P - 1 : P]
    return np.concatenate([first, within[:, :-1]], axis=1)


def wanted_loss(config, student, teacher, batch):
    total, tokens = 0.0, np.asarray(batch.tokens_BxL)[:, P:]
    masks = np.asarray(batch.masks_KxBxL[0])[:, P:]
    for row, mask in enumerate(masks):
        places = [
            i
            for i in np.flatnonzero(mask)
            if i < batch.completion_len_B[row] and tokens[row, i] not in MODEL.stop_ids
        ]
        costs = [
            restricted(
                config.divergence,
                teacher[row, i],
                student[row, i],
                config.weight,
                config.top_k or V,
            )
            if config.divergence != "nll"
            else -log_softmax(student[row, i])[tokens[row, i]]
            for i in places
        ]
        total += sum(costs) / max(len(costs), 1)
    return total / len(masks)


@pytest.fixture(scope="module")
def weights():
    return random_params(MODEL, seed=1), random_params(MODEL, seed=2)


@pytest.fixture(scope="module")
def teacher():
    return models.make_denoiser(TEACHER)


CONFIGS = {
    "forward": OpdConfig(),
    "top 3": OpdConfig(top_k=3),
    "jsd": OpdConfig(divergence="jsd", weight=0.3),
    "nll": OpdConfig(divergence="nll"),
}


def losses_of(teacher, model=MODEL):
    """`(student, teacher weights, batch) -> {name: (loss, metrics)}`."""
    denoiser = models.make_denoiser(model)
    fns = {
        name: objectives.make_loss_fn("opd", denoiser, dataclasses.replace(config, teacher=teacher))
        for name, config in CONFIGS.items()
    }
    return lambda student, frozen, batch: {
        name: fn(student, {"teacher": frozen}, batch) for name, fn in fns.items()
    }


def test_loss_is_the_float64_rendering(weights, teacher, monkeypatch):
    """Whole and in chunks of the vocabulary projection, most of which hold nothing masked.

    The teacher of the rendering is the released doubled query, ours a single causal pass.
    """
    batch = make_batch()
    student_BxGxV = student_logits(weights[0], batch)
    teacher_BxGxV = teacher_logits(weights[1], batch)
    whole = jax.jit(losses_of(teacher))(*weights, batch)
    monkeypatch.setattr(scoring, "CHUNK_BYTES", 4 * 3 * 2 * V * 2)
    chunked = jax.jit(losses_of(teacher))(*weights, batch)
    for name, config in CONFIGS.items():
        wanted = wanted_loss(config, student_BxGxV, teacher_BxGxV, batch)
        # float32 logits through a layer of width 20, sums of 24 terms; a lost position or a wrong
        # shift is 1e-1
        assert whole[name][0] == pytest.approx(wanted, abs=1e-5), name
        assert chunked[name][0] == pytest.approx(wanted, abs=1e-5), name
        assert whole[name][1]["masked"] == pytest.approx((5 + 4) / 3)


def test_a_state_may_come_as_tokens(weights, teacher):
    batch = make_batch()
    noised = jnp.where(batch.masks_KxBxL[0], MASK, batch.tokens_BxL)
    loss_fn = jax.jit(
        objectives.make_loss_fn("opd", models.make_denoiser(MODEL), OpdConfig(teacher))
    )
    as_masks, as_tokens = (
        loss_fn(weights[0], {"teacher": weights[1]}, one)[0]
        for one in (batch, batch.replace(masks_KxBxL=None, noised_BxL=noised))
    )
    assert as_masks == as_tokens


def test_gradients_do_not_depend_on_what_is_recomputed(weights, teacher, monkeypatch):
    """Rematerialised layers and chunks give the gradients of neither."""
    batch = make_batch()

    def gradient(remat):
        losses = losses_of(teacher, dataclasses.replace(MODEL, remat=remat))
        return jax.jit(jax.grad(lambda student: losses(student, weights[1], batch)["forward"][0]))(
            weights[0]
        )

    plain = gradient("none")
    monkeypatch.setattr(scoring, "CHUNK_BYTES", 4 * 3 * 2 * V * 2)
    for path, (ours, theirs) in zip(
        jax.tree_util.tree_leaves_with_path(plain),
        zip(jax.tree.leaves(plain), jax.tree.leaves(gradient("full"))),
    ):
        # the same sums in another order
        np.testing.assert_allclose(
            ours, theirs, atol=2e-6 * np.abs(ours).max() + 1e-7, err_msg=str(path)
        )


def test_only_masked_answer_tokens_move_the_student():
    """With logits as parameters, the gradient is zero elsewhere.

    That is behind the answer's end, where it stops, and where nothing is masked.
    """
    config = SimpleNamespace(vocab_size=V, mask_id=MASK, pad_id=PAD, stop_ids=MODEL.stop_ids)

    def features(params, tokens, *, valid_BxL, attention=None):
        return params["z"][:, : tokens.shape[1]]

    table = Denoiser(
        config,
        features,
        lambda params, h: h,
        lambda trainable, frozen: trainable,
        doubled=lambda *_: None,
    )
    z, batch = jax.random.normal(jax.random.key(0), (2, 3, P + 2 * G, V)), make_batch()
    loss_fn = objectives.make_loss_fn("opd", table, OpdConfig(table))
    moved = jax.grad(lambda x: loss_fn({"z": x}, {"teacher": {"z": z[1]}}, batch)[0])(z[0])
    moved = np.abs(np.asarray(moved)).sum(axis=-1) > 0
    wanted = np.zeros((3, P + 2 * G), bool)
    wanted[0, P + G :] = [0, 1, 1, 0, 1, 1, 1, 0]
    # the stop at 5 is excluded, what follows is no answer
    wanted[1, P + G :] = [1, 1, 1, 1, 0, 0, 0, 0]
    np.testing.assert_array_equal(moved, wanted)


def test_a_student_that_is_the_teacher_costs_nothing(weights, teacher):
    """Causal, shifted, and shown the answer; unshifted it is another model."""

    def doubled(denoiser):
        def features(params, row, *, valid_BxL, attention):
            h = denoiser.features(params, row[:, : P + G], valid_BxL=valid_BxL[:, : P + G])
            return jnp.concatenate([h, h[:, P:]], axis=1)

        return denoiser._replace(features=features)

    def loss(denoiser):
        loss_fn = objectives.make_loss_fn("opd", doubled(denoiser), OpdConfig(teacher))
        return jax.jit(loss_fn)(weights[1], {"teacher": weights[1]}, make_batch())[0]

    assert abs(loss(teacher)) < 1e-6
    assert loss(models.make_denoiser(dataclasses.replace(TEACHER, shift=False))) > 0.1


def test_another_vocabulary_is_refused(weights):
    other = models.make_denoiser(dataclasses.replace(TEACHER, vocab_size=V + 1))
    loss_fn = objectives.make_loss_fn("opd", models.make_denoiser(MODEL), OpdConfig(other))
    with pytest.raises(ValueError, match=f"vocabulary of {V}"):
        loss_fn(weights[0], {"teacher": weights[1]}, make_batch())


def test_next_token_prediction_is_the_float64_rendering(weights, teacher):
    batch = make_batch()
    logits = teacher_logits(weights[1], batch)
    rows = [
        np.mean([-log_softmax(logits[row, i])[batch.tokens_BxL[row, P + i]] for i in range(length)])
        for row, length in enumerate(batch.completion_len_B)
    ]
    loss_fn = jax.jit(objectives.make_loss_fn("ar", teacher, ArConfig()))
    assert loss_fn(weights[1], {}, batch)[0] == pytest.approx(np.mean(rows), abs=1e-5)


# ---------------------------------------------------------------- memory


def test_a_chunk_holds_a_devices_part_of_both_vocabularies(weights, monkeypatch):
    """Eight devices share the logits: of the same bytes a chunk has eight times the columns."""
    batch = make_batch()
    monkeypatch.setattr(scoring, "CHUNK_BYTES", 4 * 3 * 2 * V)  # of three rows: one whole column

    def program(shards):
        student, teacher = (
            models.make_denoiser(model)._replace(logit_shards=shards) for model in (MODEL, TEACHER)
        )
        loss_fn = objectives.make_loss_fn("opd", student, OpdConfig(teacher))
        args = weights[0], {"teacher": weights[1]}, batch
        return str(jax.make_jaxpr(loss_fn)(*args)), jax.jit(loss_fn)(*args)[0]

    (whole, whole_loss), (shared, shared_loss) = program(1), program(8)
    assert f"f32[3,1,{V}]" in whole and f"f32[3,{G},{V}]" not in whole
    assert f"f32[3,{G},{V}]" in shared and f"f32[3,1,{V}]" not in shared
    assert float(shared_loss) == pytest.approx(float(whole_loss), rel=1e-5)


@pytest.mark.slow
def test_the_vocabulary_is_never_whole(monkeypatch):
    """One row of 1,024 answer tokens at Qwen3's vocabulary, compiled and not run.

    An update's temporaries are under a quarter of those of one projection of all tokens.
    """
    model = tiny(vocab_size=151_936, d_model=64, layers=1, remat="full")
    a, gen = jax.ShapeDtypeStruct, 1024
    batch = Batch(
        tokens_BxL=a((1, 32 + gen), jnp.int32),
        valid_BxL=a((1, 32 + gen), bool),
        completion_len_B=a((1,), jnp.int32),
        masks_KxBxL=a((1, 1, 32 + gen), bool),
        prompt_len=32,
        block=BLOCK,
    )
    teacher = models.make_denoiser(dataclasses.replace(model, shift=True, attention="causal"))
    loss_fn = objectives.make_loss_fn("opd", models.make_denoiser(model), OpdConfig(teacher))
    params = models.param_shapes(model)

    @functools.partial(jax.grad, has_aux=True)
    def gradient(student, teacher_params, batch):
        return loss_fn(student, {"teacher": teacher_params}, batch)

    def held():
        lowered = jax.jit(lambda *args: gradient(*args)).lower(params, params, batch)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    ours = held()
    monkeypatch.setattr(scoring, "CHUNK_BYTES", 1 << 40)
    plain = held()
    assert ours < plain / 4, (ours, plain)
    print(f"temporaries {ours / 2**20:,.0f} MiB, plain {plain / 2**20:,.0f} MiB")
