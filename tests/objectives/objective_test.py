"""Objectives by name and from a file, what they read of a batch, and whose weights a teacher has.

B rows, K draws, P prompt and G completion columns, V vocabulary.
"""

import dataclasses
import re
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdsd_jax import models, objectives, sampling
from gdsd_jax.meanings import meaning_of
from gdsd_jax.objectives import OBJECTIVES, GdsdConfig, OpdConfig, SftConfig
from gdsd_jax.objectives.checks import FIELDS
from gdsd_jax.optimizer import mean_of, weighed
from gdsd_jax.types import Batch
from tests import reference
from tests.reference import random_batch, random_params, tiny

P, G, V = 3, 8, 24
MODEL = tiny(vocab_size=V, layers=1)
TEACHER = models.make_denoiser(dataclasses.replace(MODEL, shift=True, attention="causal"))
ROWS = ("tokens_BxL", "valid_BxL", "completion_len_B")


def config_of(name):
    """The objective's defaults, with the teacher that a distilling one needs."""
    objective = OBJECTIVES[name]
    return objective.config(teacher=TEACHER) if objective.teacher else objective.config()


def full_batch() -> Batch:
    """Every field that an objective may read."""
    rng = np.random.default_rng(3)
    batch = random_batch(MODEL, rows=4, prompt_len=P, gen=G, draws=1)
    return batch.replace(
        rewards_B=jnp.asarray(rng.random(4), jnp.float32),
        solved_B=jnp.asarray([True, False, True, True]),
        step_map_BxG=jnp.asarray(rng.integers(1, 5, (4, G)), jnp.int32),
        logp_BxG=-jnp.asarray(rng.random((4, G)), jnp.float32),
    )


def only(batch: Batch, *fields: str) -> Batch:
    """The batch with these fields alone."""
    return batch.replace(**{field: None for field in FIELDS if field not in fields})


def fields_of(name):
    """The fields without which the objective's loss cannot be computed."""
    reads = ("masks_KxBxL",) if name == "opd" else OBJECTIVES[name].reads
    return (*ROWS, *reads)


@pytest.fixture(scope="module")
def params():
    return random_params(MODEL)


def loss_fn_of(name):
    loss_fn = objectives.make_loss_fn(name, models.make_denoiser(MODEL), config_of(name))
    return lambda params, batch: loss_fn(params, {"teacher": params}, batch)


# ---------------------------------------------------------------- what a batch must hold


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_loss_needs_the_fields_that_it_names_and_no_others(params, name):
    """Without one of them it says which, of what shape, and what to give."""
    batch = only(full_batch(), *fields_of(name))
    loss, metrics = jax.jit(loss_fn_of(name))(params, batch)
    assert np.isfinite(loss) and all(np.isfinite(value) for value in metrics.values())
    told = mean_of(weighed(metrics), 1)  # of one slice
    assert [key for key in told if not meaning_of("train", key)] == []
    for field in fields_of(name):
        shape, content = FIELDS[field]
        said = rf"batch\.{field}, which is None: give {re.escape(shape)}, {re.escape(content)}"
        with pytest.raises(ValueError, match=said) as error:
            loss_fn_of(name)(params, batch.replace(**{field: None}))
        assert "\n" not in str(error.value)
        assert f"objective '{name}'" in str(error.value) or (name, field) == ("opd", "masks_KxBxL")


@pytest.mark.parametrize("name", [name for name, one in OBJECTIVES.items() if one.scores])
def test_scores_need_rows_and_masks(params, name):
    score_fn = objectives.make_score_fn(name, models.make_denoiser(MODEL), config_of(name))
    more = ("step_map_BxG", "logp_BxG") if OBJECTIVES[name].rollouts else ()
    batch = only(full_batch(), *ROWS, "masks_KxBxL", *more)
    assert all(np.isfinite(score).all() for score in jax.jit(score_fn)(params, batch))
    for field in (*ROWS, "masks_KxBxL", *more[:1]):
        with pytest.raises(ValueError, match=rf"a score of objective '{name}' reads batch.{field}"):
            score_fn(params, batch.replace(**{field: None}))


VIEWS = {  # objective: config, the fields that its views read besides tokens and lengths
    **{
        name: (config_of(name), ())
        for name in OBJECTIVES
        if name not in ("opd", "spg", "just_grpo")
    },
    "just_grpo": (objectives.JustGrpoConfig(), ("step_map_BxG",)),
    "just_grpo, drawn": (objectives.JustGrpoConfig(states=2), ("step_map_BxG",)),
    "spg": (objectives.SpgConfig(block_length=4), ()),
    "gdsd, by confidence": (GdsdConfig(masks="block_confidence"), ("logp_BxG",)),
    "opd, stitched": (OpdConfig(), ("step_map_BxG",)),
    "opd, all": (OpdConfig(states="all"), ("step_map_BxG",)),
    "opd, random": (OpdConfig(states="random"), ()),
}


@pytest.mark.parametrize("case", VIEWS)
def test_views_need_the_fields_that_they_name(case):
    """Masks by confidence were random ones where a batch had no log-probabilities."""
    config, more = VIEWS[case]
    views_fn = objectives.make_views_fn(case.split(",")[0], config)
    fields = ("tokens_BxL", "completion_len_B", *more)
    batch, rng = only(full_batch(), *fields), jax.random.key(0)
    masks = views_fn(batch, 2, rng)
    assert masks.shape[1:] == (4, P + G) and masks.dtype == bool
    for field in fields:
        with pytest.raises(ValueError, match=rf"batch\.{field}, which is None"):
            views_fn(batch.replace(**{field: None}), 2, rng)


@pytest.mark.parametrize("block", [None, 4])
@pytest.mark.parametrize("shift", [False, True])
def test_drawn_states_have_the_scores_that_all_have(params, shift, block):
    """Of a row, and of all its blocks in one forward, whether states are shifted or not."""
    denoiser = models.make_denoiser(dataclasses.replace(MODEL, shift=shift))
    steps = jnp.tile(1 + jnp.arange(G, dtype=jnp.int32), (4, 1))
    batch = full_batch().replace(step_map_BxG=steps, completion_len_B=jnp.full(4, G), block=block)

    def scored(states):
        config = objectives.JustGrpoConfig(states=states)
        masks = objectives.make_views_fn("just_grpo", config)(batch, 1, jax.random.key(0))
        score_fn = objectives.make_score_fn("just_grpo", denoiser, config)
        return masks[0, :, P:], score_fn(params, batch.replace(masks_KxBxL=masks))[0][0]

    (drawn, some), (every, whole) = scored(2), scored(0)
    assert every.all() and np.all(drawn.sum(axis=1) == 2 * (1 if block is None else G // block))
    np.testing.assert_allclose(some, np.where(drawn, whole, 0.0), rtol=1e-5)
    assert np.all(whole < 0)


# ---------------------------------------------------------------- by name, or from a file


def test_an_unknown_objective_is_refused_by_name():
    names = ", ".join(OBJECTIVES)
    with pytest.raises(ValueError, match=f"^unknown objective 'best', known: {names}"):
        objectives.find("best")


def test_configs_of_another_objective_are_refused():
    denoiser = models.make_denoiser(MODEL)
    with pytest.raises(ValueError, match="objective 'sft' takes a SftConfig, not GdsdConfig"):
        objectives.make_loss_fn("sft", denoiser, GdsdConfig())
    with pytest.raises(ValueError, match="objective 'gdsd' takes a GdsdConfig, not SftConfig"):
        objectives.make_score_fn("gdsd", denoiser, SftConfig())
    with pytest.raises(ValueError, match="objective 'espo' takes a EspoConfig, not SftConfig"):
        objectives.make_views_fn("espo", SftConfig())


OWN = '''
import dataclasses
import jax.numpy as jnp
from gdsd_jax.objectives import Objective
from gdsd_jax.scoring import draw_full_masks, view_token_scores

@dataclasses.dataclass(frozen=True)
class Config:
    scale: float = 2.0

def views(config, batch, draws, rng):
    return draw_full_masks(rng, draws, batch, 0.0)

def loss(denoiser, config, params, batch):
    """- scale times the mean reward-weighted log-probability."""
    logp = view_token_scores(denoiser, params, batch, batch.masks_KxBxL)
    return -config.scale * jnp.mean(batch.rewards_B[None, :, None] * logp), {}

OBJECTIVE = Objective(Config, loss, views, reads=("masks_KxBxL", "rewards_B"))
'''


def write(folder, text):
    (folder / "own.py").write_text(text)
    return str(folder / "own.py")


def test_an_objective_may_be_a_users_file(tmp_path):
    """It works everywhere a name does: facts, views, scores, loss, and what it reads."""
    path = write(tmp_path, OWN)
    objective, batch = objectives.find(path), full_batch()
    config = objective.config(scale=3.0)
    assert objective.rewards and not objective.reference(config) and not objective.uncut
    denoiser = reference.position_denoiser(V)
    assert objectives.make_score_fn(path, denoiser, config) is None
    masks = objectives.make_views_fn(path, config)(batch, 2, jax.random.key(0))
    assert masks[:, :, P:].all() and not masks[:, :, :P].any()
    batch = batch.replace(masks_KxBxL=masks)
    z = np.random.default_rng(0).standard_normal((4, P + G, V))
    loss_fn = objectives.make_loss_fn(path, denoiser, config)
    loss, _ = loss_fn({"z": jnp.asarray(z, jnp.float32)}, {}, batch)
    logp = reference.log_softmax(z)[:, P:]
    own = np.take_along_axis(logp, np.asarray(batch.tokens_BxL)[:, P:, None], axis=-1)[..., 0]
    terms = 3.0 * np.asarray(batch.rewards_B)[:, None] * own
    assert loss == pytest.approx(-terms.mean(), abs=1e-6 * np.abs(terms).mean())
    with pytest.raises(ValueError, match="own.py' reads batch.rewards_B"):
        loss_fn({"z": z}, {}, batch.replace(rewards_B=None))


@pytest.mark.parametrize(
    "text, said",
    [
        ("X = 1", "the file defines no OBJECTIVE"),
        ("OBJECTIVE = {}", "OBJECTIVE is a dict, give an objectives.Objective"),
        ("import nowhere", "fails: ModuleNotFoundError"),
    ],
)
def test_files_that_are_no_objectives_are_refused(tmp_path, text, said):
    with pytest.raises(ValueError, match=f"objective=.*own.py.*{said}") as error:
        objectives.find(write(tmp_path, text))
    assert "\n" not in str(error.value)


def test_facts_of_the_objectives():
    """What the loop asks of them."""

    def having(fact):
        return {name for name, objective in OBJECTIVES.items() if getattr(objective, fact)}

    assert having("rewards") == set(OBJECTIVES) - {"opd", "sft", "ar"}
    assert having("by_group") == {"wd1", "dmpo"}
    assert having("teacher") == {"opd"}
    assert having("rollouts") == {"trajectory", "just_grpo"}
    assert having("uncut") == having("rollouts") | {"opd"}
    compared = {"gdsd", "espo", "diffu_grpo", "coupled_grpo", "dmpo", "gdpo"}
    assert having("scores") == compared | having("rollouts")
    compares = {name for name in OBJECTIVES if OBJECTIVES[name].reference(config_of(name))}
    assert compares == {"diffu_grpo", "coupled_grpo", "dmpo"}
    assert OBJECTIVES["gdsd"].reference(GdsdConfig(beta=0.1))


# ---------------------------------------------------------------- settings


SETTINGS = [*(one.config for one in OBJECTIVES.values()), sampling.SamplerConfig]
TYPES = {
    int,
    float,
    bool,
    str,
    int | None,
    float | None,
    str | None,
    tuple[float, float] | None,
    tuple[int, ...] | None,
}


@pytest.mark.parametrize("cls", SETTINGS, ids=lambda cls: cls.__name__)
def test_settings_say_their_type_and_what_they_are(cls):
    """A value given as text is typed by the annotation, which the default must fit."""
    assert dataclasses.is_dataclass(cls) and cls.__dataclass_params__.frozen
    hints = typing.get_type_hints(cls)
    attributes = cls.__doc__.split("Attributes:\n")[1].split("\n\n")[0]
    documented = re.findall(r"^      (\w+): \S", attributes, flags=re.MULTILINE)
    assert documented == [field.name for field in dataclasses.fields(cls)]
    for field in dataclasses.fields(cls):
        if not field.metadata.get("setting", True):
            assert (cls, field.name) == (OpdConfig, "teacher")
            continue
        hint = hints[field.name]
        assert hint in TYPES, field.name
        if typing.get_origin(hint) is None:
            assert type(field.default) is hint, field.name
        elif field.default is not None:
            kinds = {typing.get_origin(one) or one for one in typing.get_args(hint)}
            assert type(field.default) in kinds, field.name


# ---------------------------------------------------------------- the teacher's weights


def test_a_teacher_may_be_adapters_over_the_students_base():
    """frozen["teacher"] is then their tree: the loss is that of the summed weights.

    Without it the teacher is the base alone.
    """
    student = tiny(vocab_size=V, layers=1, lora_rank=3, lora_alpha=6.0)
    teacher = models.make_denoiser(dataclasses.replace(student, shift=True, attention="causal"))
    base = random_params(student, seed=1)
    own, teachers = (reference.random_adapters(student, seed=seed) for seed in (5, 6))
    batch = full_batch().replace(block=4)
    loss_fn = objectives.make_loss_fn("opd", models.make_denoiser(student), OpdConfig(teacher))

    @jax.jit
    def loss(trainable, frozen):
        return loss_fn(trainable, frozen, batch)[0]

    as_adapters = float(loss(own, {"base": base, "teacher": teachers}))
    merged = [reference.merged(base, one, student) for one in (own, teachers)]
    assert as_adapters == pytest.approx(float(loss(merged[0], {"teacher": merged[1]})), rel=1e-5)
    as_base = float(loss(own, {"base": base}))
    assert as_base == pytest.approx(float(loss(merged[0], {"teacher": base})), rel=1e-5)
    assert abs(as_adapters - as_base) > 1e-2 * abs(as_base)


@pytest.mark.parametrize("name", ["reference", "teacher"])
def test_a_frozen_copy_of_adapters_is_bound_over_the_base(name):
    """Without a copy it is the base, and with neither the loss says what to give."""
    denoiser = models.make_denoiser(tiny(vocab_size=V, layers=1, lora_rank=3, lora_alpha=6.0))
    base, copy = {"embed": 1}, {"q": 2}
    bound = objectives.frozen_params(denoiser, {"base": base, name: copy}, name)
    assert bound == {"embed": 1, "lora": {"q": 2}}
    assert objectives.frozen_params(denoiser, {"base": base}, name) == base
    assert objectives.frozen_params(denoiser, {name: base}, name) == base  # whole weights
    with pytest.raises(ValueError, match=rf'the {name} has no weights: give frozen\["{name}"\]'):
        objectives.frozen_params(denoiser, {}, name)


def test_a_teacher_is_needed():
    denoiser, batch = models.make_denoiser(MODEL), full_batch()
    with pytest.raises(ValueError, match="objective 'opd' distils: its config needs a teacher"):
        objectives.make_loss_fn("opd", denoiser, OpdConfig())
    loss_fn = objectives.make_loss_fn("opd", denoiser, OpdConfig(TEACHER))
    with pytest.raises(ValueError, match=r'give frozen\["teacher"\], or frozen\["base"\]'):
        loss_fn(random_params(MODEL), {}, batch)
