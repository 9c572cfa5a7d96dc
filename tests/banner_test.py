"""What a run says of itself at its start."""

import dataclasses

import pytest

from configs import coding
from gdsd_jax import banner, experiment, settings


@pytest.fixture(scope="module")
def prepared(data_dir):
    chosen = settings.parse(
        coding.get_config(
            "tiny,prompts_per_round=8,group_size=4,slices=2,inner_iterations=2,minibatches=2,"
            f"sft.batch=16,eval_problems=20,data_dir={data_dir},mesh.data=4,mesh.fsdp=2"
        )
    )
    found = experiment.prepare(chosen, say=lambda line: None)
    found.task.close()
    return found


def changed(prepared, changes, **of_model):
    denoiser = prepared.denoiser
    if of_model:
        denoiser = denoiser._replace(config=dataclasses.replace(denoiser.config, **of_model))
    return prepared._replace(
        settings=settings.replace(prepared.settings, changes), denoiser=denoiser
    )


def test_it_names_what_the_run_is_made_of(prepared, tmp_path):
    lines = banner.lines_of(prepared, tmp_path / "run")
    told = {line[: banner.WIDTH].strip(): line[banner.WIDTH :] for line in lines}
    assert list(told) == ["model", "devices", "task", "training", "round", "workdir"]
    assert told["model"] == "llada_tiny, 480 K parameters, float32; random weights"
    assert told["devices"].startswith("8 x cpu, mesh data 4 x fsdp 2 x tensor 1, attention by ")
    assert told["task"] == (
        "coding; 1,024 problems of the supervised phase, 1,024 of the rounds, 448 held out"
    )
    assert told["training"] == (
        "600 supervised steps of 16 answers, then 60 rounds of gdsd; 20 held-out problems are "
        "asked every 20 rounds"
    )
    assert told["round"] == (
        "8 prompts x 4 answers = 32 completions = 2 minibatches x 2 slices x 8 rows; 2 updates, "
        "each of a minibatch"
    )
    assert told["workdir"] == f"{tmp_path / 'run'}, a new run; metrics also to tensorboard"


def test_a_run_without_rounds_speaks_of_none(prepared):
    alone = changed(prepared, {"rounds": 0, "temperature": 0.0, "inner_iterations": 1})
    said = "\n".join(banner.lines_of(alone, "/none/here"))
    assert "600 supervised steps of 16 answers; 20 held-out problems are asked at the end" in said
    assert "coding; 1,024 problems of the supervised phase, 448 held out" in said
    assert not any(word in said for word in ("round ", "rounds", "gdsd;", "note"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"rounds": 1, "sft.steps": 1, "sft.batch": 1, "eval_problems": 1},
            "1 supervised step of 1 answer, then 1 round of gdsd; 1 held-out problem is asked "
            "before the rounds and at the end",
        ),
        (
            {"rounds": 7, "sft.steps": 0, "eval_every": 1},
            "7 rounds of gdsd; 20 held-out problems are asked every round",
        ),
        ({"rounds": 0, "sft.steps": 0}, "none; 20 held-out problems are asked at the end"),
    ],
)
def test_one_is_no_plural(prepared, changes, said):
    assert banner.training_text(changed(prepared, changes)) == said


def test_it_says_where_a_run_goes_on(prepared, workdir):
    *_, said = banner.lines_of(prepared, workdir)
    assert f"{workdir}, goes on from checkpoint 5;" in said


def test_adapters_and_where_the_weights_are_from_are_named(prepared):
    lora = changed(prepared, {"lora_rank": 4, "lora_alpha": 8.0}, lora_rank=4)
    assert "float32, adapters of rank 4; random weights" in banner.model_text(lora)
    from_folder = changed(prepared, {"init_from": "/models/x"})
    assert banner.model_text(from_folder).endswith("; weights of /models/x")


DOUBTS = {
    "block-causal sampling of full-attention weights": (
        {"init_from": "/models/x", "sampler.kind": "block"},
        {},
        "takes block-causal attention, but llada weights have learnt with full attention: "
        "sampler.kind=llada is their own",
    ),
    "full-attention sampling of block-causal weights": (
        {"init_from": "/models/x"},
        {"family": "a2d-qwen3"},
        "takes full attention, but a2d-qwen3 weights have learnt with block-causal attention",
    ),
    "other blocks than those that weights have learnt with": (
        {"init_from": "/models/x", "sampler.kind": "block"},
        {"family": "sdar", "block_length": 4},
        "sampler.block_length=8, but sdar weights have learnt with blocks of 4 tokens: "
        "sampler.block_length=4 is their own",
    ),
    "minibatches that nobody takes": (
        {"inner_iterations": 1},
        {},
        "inner_iterations=1 is below minibatches=2: the other minibatches",
    ),
    "a warm-up longer than the run": (
        {"rounds": 5},
        {},
        "optimizer.warmup_steps=10 is not below the 10 updates",
    ),
    "a supervised warm-up longer than the phase": (
        {"sft.steps": 20},
        {},
        "sft_optimizer.warmup_steps=40 is not below the 20 updates of the supervised phase",
    ),
    "a decay that ends before the run": (
        {"optimizer.decay_steps": 30, "optimizer.final_share": 0.05},
        {},
        "optimizer.decay_steps=30 is below the 120 updates of the run: the others are made at 5%",
    ),
    "answers that are all the same": ({"temperature": 0.0}, {}, "temperature=0: the answers"),
}


def test_a_run_without_contradictions_has_no_notes(prepared):
    assert banner.doubts_of(prepared) == []
    from_nothing = changed(prepared, {"sampler.kind": "block", "sampler.steps": 24})
    assert banner.doubts_of(from_nothing) == []  # nothing has been learnt yet
    student = changed(
        prepared, {"init_from": "/models/x", "sampler.kind": "block"}, family="a2d-qwen3"
    )
    assert banner.doubts_of(student) == []  # no blocks are known that it has learnt with


@pytest.mark.parametrize(("changes", "of_model", "said"), DOUBTS.values(), ids=DOUBTS)
def test_contradictions_are_said(prepared, changes, of_model, said):
    (doubt,) = banner.doubts_of(changed(prepared, changes, **of_model))
    assert said in doubt


@pytest.mark.parametrize(
    ("count", "text"), [(8_015_581_184, "8.02 B"), (479_808, "480 K"), (135e6, "135 M"), (7, "7")]
)
def test_large_numbers_have_three_digits(count, text):
    assert banner.count_text(count) == text


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"sampler.alg": "origin", "sampler.alg_temp": 0.5}, ["alg=origin", "alg_temp=0.5"]),
        ({"sampler.kind": "dream", "sampler.remasking": "random"}, ["remasking=random"]),
        ({"sampler.refresh_every": 2}, ["refresh_every=2"]),
        ({"sampler.cache": "dual", "sampler.refresh_every": 2, "sampler.remasking": "random"}, []),
        ({"sampler.kind": "dream", "sampler.alg_temp": 0.5}, []),
        (
            {"sampler.kind": "dream", "sampler.alg": "origin", "sampler.alg_temp": 0.5},
            ["alg_temp=0.5"],
        ),
    ],
)
def test_settings_that_no_sampler_reads_are_told(prepared, changes, names):
    given = {"sampler.block_length": None, "sampler.steps": None} | changes
    found = banner.doubts_of(changed(prepared, given))
    assert [line.split()[0] for line in found] == [f"sampler.{name}" for name in names]
    assert all("changes nothing" in line for line in found)
