"""Settings: typed by their fields, unknown keys named, and back from the config.json of a run."""

import dataclasses
import json

from ml_collections import ConfigDict
import pytest

from configs import coding, opdlm
from gdsd_jax import objectives, settings, version
from gdsd_jax.sampling import SamplerConfig
from gdsd_jax.sharding import MeshConfig

REWARDED = [name for name, objective in objectives.OBJECTIVES.items() if objective.rewards]
RECIPES = {  # every config file with every model, objective and control
    f"coding:{model},objective={objective}": coding.get_config(f"{model},objective={objective}")
    for model in coding.MODELS
    for objective in REWARDED
}
RECIPES["coding:llada,lora_rank=0"] = coding.get_config("llada,lora_rank=0")
for model in opdlm.MODELS:
    for math in ("0", "1") if model in opdlm.TOP_K else ("0",):
        for control in opdlm.CONTROLS:
            argument = f"{model},math={math},control={control}"
            RECIPES[f"opdlm:{argument}"] = opdlm.get_config(argument)


def parse(*overrides, **recipe) -> settings.Settings:
    """The settings of a recipe, values by section, and overrides "key=text"."""
    return settings.parse(ConfigDict({"recipe": recipe, "overrides": overrides}))


def value_of(override, *others):
    return settings.flat(parse(*others, override))[override.partition("=")[0]]


def refusal(*overrides, **recipe) -> str:
    """The one line that says what is wrong."""
    with pytest.raises(ValueError) as error:
        parse(*overrides, **recipe)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---------------------------------------------------------------- values by their types


@pytest.mark.parametrize(
    "override, value",
    [
        ("seed=7", 7),
        ("seed=1_000", 1000),
        ("mesh.data=-1", -1),
        ("temperature=1", 1.0),
        ("optimizer.learning_rate=3e-6", 3e-6),
        ("require_init=true", True),
        ("require_init=True", True),
        ("require_init=FALSE", False),
        ("name=5", "5"),
        ("name=true", "true"),
        ("greeting=a, b = (c", "a, b = (c"),
        ("columns.question=7", "7"),
        ("max_lengths.math=5", 5),
        ("model=none", None),
        ("model=llada_tiny", "llada_tiny"),
        ("threshold=None", None),
        ("threshold=0.5", 0.5),
        ("length_ramp.start=none", None),
        ("gdsd.trust=none", None),
        ("gdsd.trust=(0.1, 1)", (0.1, 1.0)),
        ("gdsd.trust=[0.1,0.2]", (0.1, 0.2)),
        ("lora_targets=(q,v)", ("q", "v")),
        ("lora_targets=('q','v')", ("q", "v")),
        ("lora_targets=q", ("q",)),
        ("sinks=()", ()),
        ("sampler.stop_ids=(3,)", (3,)),
        ("sampler.stop_ids=[3, 4]", (3, 4)),
        ("sampler.stop_ids=none", None),
    ],
)
def test_a_text_becomes_a_value_of_the_fields_type(override, value):
    found = value_of(override)
    assert found == value and type(found) is type(value)
    if isinstance(value, tuple):
        assert list(map(type, found)) == list(map(type, value))


@pytest.mark.parametrize(
    "override, wanted",
    [
        ("seed=1.5", "int values such as 8"),
        ("seed=true", "int values such as 8"),
        ("seed=none", "int values such as 8"),
        ("seed=", "int values such as 8"),
        ("max_lengths.math=long", "int values such as 8"),
        ("temperature=hot", "float values such as 0.1"),
        ("temperature=false", "float values such as 0.1"),
        ("require_init=1", "true or false"),
        ("require_init=yes", "true or false"),
        ("gdsd.trust=0.1", "tuple values such as (0.1, 0.2)"),
        ("gdsd.trust=(0.1,)", "tuple values such as (0.1, 0.2)"),
        ("gdsd.trust=(0.1,0.2,0.3)", "tuple values such as (0.1, 0.2)"),
        ("gdsd.trust=(a,b)", "tuple values such as (0.1, 0.2)"),
        ("sampler.stop_ids=3", "tuple values such as (1, 2)"),
        ("sampler.stop_ids=(0.5,)", "tuple values such as (1, 2)"),
        ("lora_targets=(1,2)", "tuple values such as (q, v)"),
    ],
)
def test_another_type_is_refused_by_key_and_example(override, wanted):
    key, _, text = override.partition("=")
    assert refusal(override) == f"config key {key!r} takes {wanted}, not {text!r}"


def test_values_of_a_recipe_have_the_types_too():
    """Lists become tuples, whole numbers fractions where those are wanted; words are no numbers."""
    chosen = parse(gdsd={"trust": [0.1, 1]}, temperature=2, max_lengths={"math": 5}, model=None)
    assert chosen.objective_config.trust == (0.1, 1.0)
    assert type(chosen.temperature) is float and chosen.max_lengths == {"math": 5}
    assert refusal(seed="7") == "config key 'seed' takes int values such as 8, not '7'"
    assert refusal(seed=True) == "config key 'seed' takes int values such as 8, not 'True'"
    assert "'temperature' takes float" in refusal(temperature=None)
    assert "'max_lengths.math' takes int" in refusal(max_lengths={"math": 0.5})


def test_mappings_are_given_whole_or_by_entry():
    assert parse("max_lengths={'math': 5, 'code': 6}").max_lengths == {"math": 5, "code": 6}
    chosen = parse("max_lengths.code=7", max_lengths={"math": 5, "code": 6})
    assert chosen.max_lengths == {"math": 5, "code": 7}
    assert parse("columns.question=prompt").columns == {"question": "prompt"}


# ---------------------------------------------------------------- which keys there are


def test_all_unknown_keys_are_named_at_once():
    said = refusal(
        "lr=1", "gdsd.psy=2", "espo.beta=1", "seed=3", "nothing_like_it.at_all=1", round=3
    )
    for key in ("lr", "gdsd.psy", "espo.beta", "nothing_like_it.at_all", "round"):
        assert f"unknown config key {key!r}" in said
    assert said.count("unknown config key") == 5


@pytest.mark.parametrize(
    "key, near",
    [
        ("lr", "optimizer.learning_rate"),
        ("learning_rate", "optimizer.learning_rate"),
        ("optimizer.lr", "optimizer.learning_rate"),
        ("sft_optimizer.lr", "sft_optimizer.learning_rate"),
        ("round", "rounds"),
        ("gdsd.psy", "gdsd.psi"),
        ("top_p", "sampler.top_p"),
        ("sandbox.cpu", "sandbox.cpu_s"),
        ("sampler", "sampler.kind"),
        ("max_lengths.math.short", "max_lengths"),
    ],
)
def test_near_keys_are_named(key, near):
    said = refusal(f"{key}=1")
    assert said.startswith(f"unknown config key {key!r}; near it: ")
    assert near in said.partition("near it: ")[2].split(", ")


def test_all_unknown_keys_are_told_apart():
    """A near name is never taken for a second mistake."""
    said = refusal("round=1", "gdsd.psy=1")
    assert [part.partition(";")[0] for part in said.split(" | ")] == [
        "unknown config key 'round'",
        "unknown config key 'gdsd.psy'",
    ]


@pytest.mark.parametrize("key", ["init_from", "data_file", "heldout_file"])
def test_files_and_folders_mean_the_same_from_any_folder(key, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flat = settings.flat(parse(f"{key}=some/place"))
    assert flat[key] == str(tmp_path / "some" / "place")
    assert settings.flat(parse(f"{key}=gs://bucket/place"))[key] == "gs://bucket/place"
    assert f"{key}=http://" in refusal(f"{key}=http://host/place")


@pytest.mark.parametrize("key", ["options", "options.a", "objective_config", "gdsd", "format"])
def test_what_is_no_setting_cannot_be_set(key):
    assert f"unknown config key {key!r}" in refusal(f"{key}=1")


def test_overrides_come_after_the_recipe():
    recipe = {"seed": 3, "optimizer": {"learning_rate": 0.5, "b1": 0.25}}
    chosen = parse("seed=4", "optimizer.learning_rate=0.125", **recipe)
    assert (chosen.seed, chosen.optimizer.learning_rate, chosen.optimizer.b1) == (4, 0.125, 0.25)
    assert parse(**recipe).seed == 3 and parse().seed == settings.Settings.seed
    assert parse("seed=4", "seed=5").seed == 5
    assert parse() == settings.build({})


@pytest.mark.parametrize("name", REWARDED)
def test_only_the_chosen_objective_has_a_section(name):
    kind = objectives.OBJECTIVES[name].config
    # answers that are written left to right
    chosen = parse(f"objective={name}", "sampler.block_length=1")
    assert type(chosen.objective_config) is kind and chosen.objective_config == kind()
    for other in set(REWARDED) - {name}:
        field = dataclasses.fields(objectives.OBJECTIVES[other].config)[0].name
        assert f"unknown config key '{other}.{field}'" in refusal(
            f"objective={name}", "sampler.block_length=1", f"{other}.{field}=1"
        )
    assert settings.to_json(chosen).keys() & set(REWARDED) == {name}


@pytest.mark.parametrize(
    "overrides, said",
    [
        (["optimizer.b1=2"], "optimizer.b1=2.0, b2=0.99 must lie in"),
        (["sampler.steps=0"], "sampler.steps=0 must be at least 1"),
        (["seed=-1"], "seed=-1 must be at least 0"),
        (["seed=4294967296"], "seed=4294967296 must be below 2**32"),  # jax takes it for 0
        (["heldout_seed=9223372036854775808"], "heldout_seed=9223372036854775808 must be below"),
        (["sampler.gen_length=7", "sampler.block_length=2"], "sampler.gen_length=7 must be a"),
        (["objective=espo", "espo.epsilon_low=2"], "espo.epsilon_low=2.0"),
        (["sft.share=0"], "sft.share=0.0 must lie in (0, 1]"),
        (["sft.objective=gdsd"], "sft.objective='gdsd' learns from rewards or a teacher"),
        (["sft.objective=opd"], "sft.objective='opd' learns from rewards or a teacher"),
        (["sandbox.cpu_s=-1"], "sandbox.cpu_s=-1.0 must be"),
        (["dtype=float64"], "dtype='float64': choose one of float32, bfloat16"),
        (["heldout_share=1"], "heldout_share=1.0 must lie in [0, 1)"),
        (["group_size=1"], "group_size=1: advantages compare completions"),
        (["slices=3"], "minibatches=1 times slices=3 must divide the 256 completions"),
        (["answers=teacher"], "answers='teacher': choose student"),
        (["objective=opd"], "objective 'opd' trains a block-causal model: set sampler.kind=block"),
        (["objective=ppo"], "unknown objective 'ppo', known: gdsd"),
        (["task=sudokoo"], "unknown task 'sudokoo', known: chats, coding"),
    ],
)
def test_values_that_cannot_work_are_named_by_their_whole_key(overrides, said):
    assert refusal(*overrides).startswith(said)


# ---------------------------------------------------------------- the user's own files

OBJECTIVE = '''
"""A user's own."""

import dataclasses

from gdsd_jax.objectives import Objective


@dataclasses.dataclass(frozen=True)
class Config:
    weight: float = 1.0
    sides: tuple[str, ...] = ("left",)
    limits: dict[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if self.weight < 0:
            raise ValueError(f"weight={self.weight} must not be negative")


OBJECTIVE = Objective(Config, loss=None, views=None)
'''
TASK = '''
"""A user's own."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class OPTIONS:
    letter: str = "a"
    words: int = 20


def make(settings):
    raise AssertionError("settings open no task")
'''


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A folder with an objective and a task, the present one."""
    (tmp_path / "mine.py").write_text(OBJECTIVE)
    (tmp_path / "letters.py").write_text(TASK)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_objective_of_ones_own_has_its_own_keys(mine):
    own = ("objective=mine.py", "mine.weight=2", "mine.sides=(left,right)", "mine.limits.left=3")
    chosen = parse(*own)
    config = chosen.objective_config
    assert (config.weight, config.sides, config.limits) == (2.0, ("left", "right"), {"left": 3})
    assert chosen.objective == str(mine / "mine.py")
    assert "gdsd" not in settings.to_json(chosen)
    assert settings.replace(chosen, {"mine.weight": 3}).objective_config.weight == 3.0
    said = refusal(*own, "mine.wait=1", "gdsd.psi=1")
    assert "'mine.wait'; near it: mine.weight" in said and "'gdsd.psi'" in said
    assert refusal("objective=mine.py", "mine.weight=-1").startswith("mine.weight=-1.0 must not")
    assert "'mine.weight' takes float" in refusal("objective=mine.py", "mine.weight=much")


def test_a_file_may_not_have_the_name_of_a_setting(mine):
    (mine / "seed.py").write_text(OBJECTIVE)
    assert "'seed' names a setting; choose another" in refusal("objective=seed.py")


def test_options_are_the_tasks(mine):
    chosen = parse("task=letters.py", "options.letter=5")
    assert (chosen.options.letter, chosen.options.words) == ("5", 20)
    assert chosen.task == str(mine / "letters.py")
    told = chosen.task_settings()
    assert told.options is chosen.options and told.seed == chosen.seed
    assert "'options.word'; near it: options.words" in refusal("task=letters.py", "options.word=5")
    assert "'options.words' takes int" in refusal("task=letters.py", "options.words=many")
    assert "unknown config key 'options.words'" in refusal("options.words=5")


def test_a_workdir_means_the_same_from_another_folder(mine, tmp_path_factory, monkeypatch):
    chosen = parse("objective=mine.py", "mine.limits.left=3", "task=letters.py", "options.words=5")
    workdir = tmp_path_factory.mktemp("run")
    settings.write(workdir, chosen, "near")
    monkeypatch.chdir(workdir)
    assert settings.read(workdir) == chosen


# ---------------------------------------------------------------- changes


def test_replace_changes_some_keys_and_checks_them():
    before = parse("seed=3", "max_lengths.math=5")
    after = settings.replace(before, {"slices": 4, "optimizer.b1": 0.5, "max_lengths.code": 6})
    assert (after.slices, after.optimizer.b1, after.seed) == (4, 0.5, 3)
    assert after.max_lengths == {"math": 5, "code": 6}
    assert (before.slices, before.max_lengths) == (1, {"math": 5})
    assert settings.replace(before, {}) == before
    for changes, said in [
        ({"slice": 4}, "unknown config key 'slice'; near it: slices"),
        ({"slices": 3}, "must divide"),
        ({"slices": "4"}, "'slices' takes int"),
        ({"objective": "espo", "gdsd.psi": 1.0}, "unknown config key 'gdsd.psi'"),
    ]:
        with pytest.raises(ValueError, match=said):
            settings.replace(before, changes)


def test_a_default_that_follows_other_keys_goes_on_following():
    """What was given stays, also where it is what the default was."""
    block, length = "sampler.block_length", {"sampler.gen_length": 8}
    followed = settings.replace(parse("sampler.gen_length=16"), length)
    assert followed.sampler.block_length == 8
    given = parse("sampler.gen_length=16", f"{block}=4")
    assert settings.replace(given, length).sampler.block_length == 4
    for chosen, value in [(parse(), 256), (parse(f"{block}=32"), 32)]:
        assert chosen.sampler.block_length == 32
        dream = settings.replace(chosen, {"sampler.kind": "dream"})
        assert dream.sampler.block_length == value


def test_a_flag_has_entries_of_one_section():
    found = settings.section(
        "--sampler", "stop_ids=(1,2),top_p=1,cache=none", SamplerConfig, {"gen_length": 64}
    )
    assert found == SamplerConfig(gen_length=64, stop_ids=(1, 2))
    assert settings.section("--mesh", "", MeshConfig, {"fsdp": 2}) == MeshConfig(fsdp=2)
    # the defaults are those of the flag, which an entry goes before
    assert settings.section("--mesh", "fsdp=4", MeshConfig, {"fsdp": 2}) == MeshConfig(fsdp=4)


@pytest.mark.parametrize(
    "text, said",
    [
        ("data=2,foo=1", "--mesh: 'foo=1' is no key=value with a key of data, fsdp, tensor"),
        ("data", "--mesh: 'data' is no key=value with a key of data, fsdp, tensor"),
        ("data=many", "--mesh: config key 'data' takes int values such as 8, not 'many'"),
    ],
)
def test_a_flags_fault_is_one_line_with_its_name(text, said):
    with pytest.raises(ValueError) as error:
        settings.section("--mesh", text, MeshConfig, {})
    assert str(error.value) == said
    with pytest.raises(ValueError, match="^--sampler: gen_length=7 must be a multiple"):
        settings.section("--sampler", "gen_length=7,block_length=2", SamplerConfig, {})


# ---------------------------------------------------------------- config.json


@pytest.mark.parametrize("config", RECIPES.values(), ids=RECIPES)
def test_every_recipe_comes_back_from_its_file(config, tmp_path):
    chosen = settings.parse(config)
    settings.write(tmp_path, chosen, "tests")
    entries = json.loads((tmp_path / "config.json").read_text())
    assert (entries.pop("format"), entries.pop("score")) == (2, "tests")
    assert entries.pop("version") == version.__version__ and entries.pop("metrics_format") == 1
    read = settings.read(tmp_path)
    assert read == chosen and settings.to_json(read) == settings.to_json(chosen)
    assert entries == json.loads(json.dumps(settings.to_json(chosen)))


@pytest.mark.parametrize("config", RECIPES.values(), ids=RECIPES)
def test_every_setting_may_be_given_as_text(config):
    chosen = settings.parse(config)
    assert parse(*(f"{key}={value}" for key, value in settings.flat(chosen).items())) == chosen


FORMAT_1 = """{
  "lora_rank": 0, "lora_alpha": 0.0, "lora_targets": ["q", "k", "v", "o", "gate", "up", "down"],
  "enable_thinking": false, "dtype": "float32", "param_dtype": null, "remat": "dots",
  "attention_kernel": "auto", "mesh": {"data": -1, "fsdp": 1, "tensor": 1},
  "rollout_weights": "auto", "checkpoint_every": 10, "keep_checkpoints": 2, "minibatches": 1,
  "answers": "student", "threshold": null,
  "threshold_ramp": {"end": null, "hold": 0, "rounds": 0, "shape": "cos"},
  "length_ramp": {"start": null, "rounds": 0, "shape": "cos"}, "max_lengths": {},
  "drift_share": 0.125, "drift_bound": 0.1,
  "sandbox": {"mode": "auto", "cpu_s": 1.0, "wall_s": 20.0, "memory_mib": 512},
  "name": "coding-tiny-spg", "greeting": "GREETING", "model": "llada_tiny", "init_from": null,
  "require_init": false, "seed": 0, "task": "coding", "data_file": null, "heldout_file": null,
  "data_dir": "runs/data", "prompt_length": 24, "too_long": "drop",
  "sampler": {"kind": "llada", "gen_length": 24, "block_length": 8, "steps": 12,
    "remasking": "low_confidence", "alg": "entropy", "alg_temp": 0.0, "top_p": 1.0, "cache": null,
    "refresh_every": null, "cfg_scale": 0.0},
  "temperature": 1.0, "rounds": 2, "prompts_per_round": 32, "group_size": 8,
  "inner_iterations": 2, "slices": 1, "mask_draws": 2, "baseline": "mean",
  "scale_rewards": false, "shuffle_rewards": false,
  "optimizer": {"learning_rate": 0.0002, "warmup_steps": 10, "decay_steps": 0,
    "weight_decay": 0.0, "b1": 0.9, "b2": 0.99, "clip_norm": 1.0, "moments_dtype": "float32"},
  "sft": {"objective": "sft", "steps": 60, "batch": 64, "noise": 0.4, "weighting": "uniform",
    "count": "full", "log_every": 60, "checkpoint_every": 200, "share": 0.5},
  "sft_optimizer": {"learning_rate": 0.003, "warmup_steps": 40, "decay_steps": 600,
    "weight_decay": 0.0, "b1": 0.9, "b2": 0.99, "clip_norm": 1.0, "moments_dtype": "float32"},
  "eval_every": 2, "eval_problems": 64,
  "gdsd": {"psi": 10.0, "weighting": "elbo", "centring": "none", "centring_k": 64,
    "detach_centre": false, "trust": [0.02, 0.02], "trust_sides": "two", "beta": 0.0,
    "count": "full", "masks": "uniform", "mask_block": 32, "preset": null},
  "spg": {"estimate": "mix", "mix": 0.5, "beta_eubo": 1.5, "forward": "block_random",
    "block_length": 8, "min_share": 0.0, "max_share": 1.0, "mask_prompt": 0.15},
  "dmpo": {"alpha": 0.04, "sharpness": 1.0, "centring": 1.0, "mask_low": 0.1, "count": "full"},
  "objective": "spg"
}"""  # written by the first version of the library, two of its unused objectives left out


def write_format_1(folder, entries) -> None:
    (folder / "config.json").write_text(json.dumps(entries))


def test_a_config_of_the_first_format_is_todays(tmp_path):
    """It held every objective's settings, and of a file alone nothing was held out."""
    argument = "tiny,objective=spg,rounds=2,sft.steps=60,eval_every=2,eval_problems=64"
    # what the embedded recipe was when the file was written
    argument += ",sampler.steps=12,inner_iterations=2,minibatches=1,optimizer.learning_rate=2e-4"
    argument += ",optimizer.decay_steps=0,optimizer.final_share=0"
    today = settings.parse(coding.get_config(argument))
    entries = json.loads(FORMAT_1) | {"greeting": today.greeting}
    write_format_1(tmp_path, entries)
    assert settings.read(tmp_path) == settings.replace(today, {"heldout_share": 0.0})
    assert settings.flat(today)["heldout_share"] > 0
    write_format_1(tmp_path, entries | {"mask_drawers": 1})
    with pytest.raises(ValueError, match="config.json: unknown config key 'mask_drawers'"):
        settings.read(tmp_path)


def test_a_distillation_of_the_first_format_is_todays(tmp_path):
    """Its objective had a key more, which changed nothing."""
    today = settings.parse(opdlm.get_config("tiny,math=0,control=kd"))
    entries = json.loads(json.dumps(settings.to_json(today)))
    for key in ("heldout_share", "heldout_seed", "columns", "prompt", "sinks"):
        del entries[key]
    assert entries["opd"]["states"] == "random"
    entries["opd"]["fill"] = "clean"
    write_format_1(tmp_path, entries)
    assert settings.read(tmp_path) == settings.replace(today, {"heldout_share": 0.0})


@pytest.mark.parametrize(
    "text, said",
    [
        (None, "not a readable file .FileNotFoundError.*give the workdir of a run"),
        ("{", "not readable JSON .Expecting.*give the workdir of a run"),
        ("[1, 2]", "a JSON list, not an object: give the workdir of a run"),
        ('{"format": "new"}', "not the settings of a run; give the workdir of one"),
        ('{"format": 2, "task": null}', "config key 'task' takes words, not 'None'"),
        (
            '{"format": 3}',
            "format 3, this version, .*, reads up to 2: install the version that wrote",
        ),
        ('{"format": 2, "seed": "7"}', "config key 'seed' takes int values such as 8, not '7'"),
        ('{"format": 2, "sead": 7}', "unknown config key 'sead'; near it: seed"),
        ('{"format": 2, "task": "/none.py"}', "task=/none.py is not a readable file"),
    ],
)
def test_a_folder_that_is_no_run_is_named_in_one_line(tmp_path, text, said):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=said) as error:
        settings.read(tmp_path)
    assert str(error.value).startswith(f"{tmp_path}/config.json: ") and "\n" not in str(error.value)
