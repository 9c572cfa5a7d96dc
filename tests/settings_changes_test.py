"""What a run may change when it goes on, what may differ from the run it starts from, what it is
called."""

import dataclasses

import pytest

from configs import coding
from gdsd_jax import settings
from gdsd_jax.settings import changes


def parsed(overrides: str = "") -> settings.Settings:
    return settings.parse(coding.get_config(f"tiny,{overrides}"))


def test_the_same_settings_are_no_change():
    """Also where the sampler is told what it would take by itself, and after config.json."""
    assert settings.changes_of_run(parsed(), parsed()) == ({}, {})
    told = parsed(f"sampler.block_length={parsed().sampler.block_length},sampler.top_p=1.0")
    assert settings.changes_of_run(told, parsed()) == ({}, {})
    again = settings.from_json(settings.to_json(told))
    assert settings.changes_of_run(again, told) == ({}, {})


def test_a_ramp_that_changes_nothing_is_no_setting():
    """Earlier versions took it; what this one asks for in its place lets such a run go on."""
    for idle in (
        {"length_ramp.rounds": 60, "length_ramp.shape": "sin"},
        {"length_ramp.start": 8},
        {"threshold_ramp.end": 0.5},
    ):
        assert settings.changes_of_run(settings.replace(parsed(), idle), parsed()) == ({}, {})
    ramp = {"length_ramp.start": 8, "length_ramp.rounds": 60}
    _, refused = settings.changes_of_run(settings.replace(parsed(), ramp), parsed())
    assert refused.keys() == {*ramp, "length_ramp.shape"}


FREE = (
    *("rounds=9", "eval_every=2", "checkpoint_every=3", "keep_checkpoints=5", "sinks=(csv,)"),
    *("keep_best=pass_at_1", "mesh.data=1", "mesh.fsdp=2", "data_dir=elsewhere", "remat=none"),
    *("sft.log_every=7", "sandbox.mode=unsafe"),
)
BOUND = {
    "seed=1": ("seed", 0, 1),
    "gdsd.psi=3": ("gdsd.psi", parsed().objective_config.psi, 3.0),
    "group_size=4": ("group_size", parsed().group_size, 4),
    "optimizer.learning_rate=0.5": ("optimizer.learning_rate", 2e-4, 0.5),
    "lora_rank=2,lora_alpha=4": ("lora_rank", 0, 2),
    "eval_problems=7": ("eval_problems", 512, 7),
    "sft.steps=3": ("sft.steps", 400, 3),
    "sandbox.cpu_s=0.5": ("sandbox.cpu_s", 1.0, 0.5),
    "max_lengths.math=7": ("max_lengths.math", None, 7),
}


def test_what_does_not_change_results_may_change():
    allowed, refused = settings.changes_of_run(parsed(), parsed(",".join(FREE)))
    assert not refused and list(allowed) == sorted(text.split("=")[0] for text in FREE)
    rounds = {"rounds": allowed["rounds"], "seed": (0, 1)}
    assert settings.listed(rounds) == f"rounds={parsed().rounds} is now 9, seed=0 is now 1"


@pytest.mark.parametrize("override", BOUND)
def test_all_else_may_not(override):
    key, old, new = BOUND[override]
    allowed, refused = settings.changes_of_run(parsed("rounds=1"), parsed(f"rounds=2,{override}"))
    assert list(allowed) == ["rounds"] and refused[key][1] == new
    if key not in ("optimizer.learning_rate", "eval_problems", "sft.steps"):  # the recipe's own
        assert refused[key] == (old, new)


def test_another_objective_is_named_with_its_own_settings():
    _, refused = settings.changes_of_run(parsed(), parsed("objective=espo"))
    assert refused["objective"] == ("gdsd", "espo") and "espo.beta" in refused


def test_slices_may_change_unless_they_are_apart():
    """Apart, each is drawn and averaged alone: another number is another gradient."""
    allowed, refused = settings.changes_of_run(parsed("slices=2"), parsed("slices=4"))
    assert allowed == {"slices": (2, 4)} and refused == {}
    apart = parsed("slices=2,slices_apart=true"), parsed("slices=4,slices_apart=true")
    assert settings.changes_of_run(*apart) == ({}, {"slices": (2, 4)})


def test_every_name_in_the_lists_is_a_setting():
    """One that is renamed would be bound, or free, in silence."""
    fields = {field.name for field in dataclasses.fields(settings.Settings)}
    keys = {*settings.flat(parsed()), *fields}
    for name in (*changes.FREE, *changes.SUPERVISED):
        assert name in keys, name


def test_a_start_binds_the_supervised_phase_alone():
    begun = parsed("rounds=0")
    free = "seed=0,objective=wd1,optimizer.learning_rate=0.5,group_size=4,reward.variant=released"
    assert settings.changes_of_start(begun, parsed(f"{free},sampler.block_length=12")) == {}
    for bound in ("seed=1", "sft.noise=0.9", "sft_optimizer.learning_rate=0.5", "prompt_length=99"):
        key, _, _ = bound.partition("=")
        assert list(settings.changes_of_start(begun, parsed(f"{free},{bound}"))) == [key]


# ---------------------------------------------------------------- names


def test_a_run_is_named_by_its_overrides():
    """In any order, without those that may change."""
    assert settings.run_name("coding-tiny", "") == "coding-tiny"
    assert settings.run_name("coding-tiny", "tiny,rounds=3,sinks=(csv,)") == "coding-tiny"
    for argument in ("tiny,seed=1,gdsd.psi=3", "gdsd.psi=3,rounds=9,seed=1"):
        assert settings.run_name("coding-tiny", argument) == "coding-tiny-gdsd.psi-3-seed-1"


def test_long_and_strange_names_end_with_a_hash():
    """And stay apart."""
    names = [
        settings.run_name("coding-llada", f"llada,init_from={place}")
        for place in ("models/a", "models-a", "x" * 90, "x" * 91, "gs://b/a b")
    ]
    assert len(set(names)) == len(names)
    assert names[1] == "coding-llada-init_from-models-a"
    assert names[0].startswith("coding-llada-init_from-models-a-")
    for name in names:
        assert len(name) <= changes.NAME_LENGTH and not set(name) & set("/:= ,")
