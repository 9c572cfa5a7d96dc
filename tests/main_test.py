"""What a user gets wrong ends with exit code 2 and one line that names it, before anything is
compiled or written."""

import dataclasses
import json
from pathlib import Path
import sys

import pytest

from configs import coding
from gdsd_jax import (
    checkpoint,
    experiment,
    hosts,
    paths,
    settings,
    tokenizers,
    train,
    weights,
)

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def launch(main, monkeypatch, capsys, tmp_path):
    """`launch(argument) -> (exit code, error lines)` of `--config=configs/coding.py:argument`."""

    def call(argument: str, file: str = "configs/coding.py"):
        workdir = tmp_path / "workdir"
        monkeypatch.setattr(
            train, "train", lambda *_, **__: pytest.fail("accepted, and training began")
        )
        monkeypatch.setattr(
            sys, "argv", ["main.py", f"--config={ROOT / file}:{argument}", f"--workdir={workdir}"]
        )
        try:
            code = main()
        except SystemExit as stop:  # what is told before jax is imported
            code = stop.code
        assert not workdir.exists(), "something was written"
        return code, capsys.readouterr().err.splitlines()

    return call


BAD = {
    "big": "unknown model 'big', this config knows: tiny, llada",
    "tiny,round=3": "unknown config key 'round'; near it: rounds",
    "tiny,gdsd.psy=3": "unknown config key 'gdsd.psy'; near it: gdsd.psi",
    "tiny,rounds": "override 'rounds' is not of the form key=value",
    "tiny,rounds=many": "config key 'rounds' takes int values such as ",
    "tiny,gdsd.trust=3": "config key 'gdsd.trust' takes tuple values",
    "tiny,gdsd.trust=(1,)": "config key 'gdsd.trust' takes tuple values",
    "tiny,gdsd.trust=(1,-1)": "trust=(1.0, -1.0): give two positive numbers",
    "tiny,gdsd.centring=some": "centring='some': choose one of",
    "tiny,slices=3": "minibatches=2 times slices=3 must divide the 256 completions of a round",
    "tiny,prompts_per_round=2,group_size=3,minibatches=1": (
        "prompts_per_round * group_size / (minibatches * slices)=6 must be a multiple of the"
    ),
    "tiny,group_size=1": "group_size=1: advantages compare completions",
    "tiny,sft.batch=0": "sft.batch=0 must be at least 1",
    "tiny,lora_rank=-1": "lora_rank=-1 must be at least 0",
    "tiny,dtype=int8": "dtype='int8': choose one of float32, bfloat16",
    "tiny,optimizer.learning_rate=0.0": "optimizer.learning_rate=0.0 must be above 0",
    "tiny,objective=best": "unknown objective 'best', known: ",
    "tiny,task=cooking": "unknown task 'cooking', known: chats, coding",
    "tiny,model=gpt": "unknown model 'gpt', known: ",
    "tiny,mesh.data=1,mesh.tensor=3": "does not fit 8 devices",
    "tiny,attention_kernel=flash": (
        "attention_kernel='flash': choose one of auto, splash, cudnn, rows, xla"
    ),
    "tiny,attention_kernel=splash": (
        "attention_kernel='splash' needs a TPU, this is a cpu; or choose auto"
    ),
    "tiny,sampler.block_length=5": "gen_length=24 must be a multiple of block_length=5",
    "tiny,sampler.kind=slow": "kind='slow'",
    "tiny,sinks=(paper,)": "unknown sink 'paper', known: ",
    "tiny,data_file=none.jsonl,init_from=none": "none.jsonl is not a readable UTF-8 file",
    "llada": "convert them with `python launch/convert.py --from_hf=DIR --to_orbax=DIR`",
}


@pytest.mark.parametrize(("argument", "said"), BAD.items())
def test_one_line_names_what_is_wrong(launch, argument, said):
    code, lines = launch(argument)
    assert code == 2
    assert len(lines) == 1 and lines[0].startswith("error: ") and said in lines[0], lines


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ["--num_processes=2"],
            "give --coordinator=HOST:PORT, --num_processes and --process_id together",
        ),
        (
            ["--coordinator=here", "--num_processes=2", "--process_id=1"],
            "--coordinator=here: give HOST:PORT",
        ),
        (
            ["--coordinator=here:1", "--num_processes=2", "--process_id=2"],
            "--process_id=2 must lie in 0 .. 1",
        ),
    ],
)
def test_processes_that_cannot_meet_are_told(main, monkeypatch, capsys, flags, said):
    monkeypatch.setattr(sys, "argv", ["main.py", f"--config={ROOT / 'configs/coding.py'}", *flags])
    assert main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and said in line


def test_an_absent_config_is_named_with_those_there_are(launch):
    code, lines = launch("tiny", file="configs/poetry.py")
    assert code == 2 and len(lines) == 1
    assert "no file" in lines[0] and lines[0].endswith(
        "there are the recipes coding, countdown, gsm8k, instructions, math, opdlm, "
        "reasoning_gym, sft, sudoku"
    )


def test_a_bad_row_and_absent_weights_are_named(launch, tmp_path):
    rows = tmp_path / "rows.jsonl"
    good = json.dumps({"question": "q", "test_cases": ["assert f()"]}) + "\n"
    rows.write_text(good + '{"question": 3}\n')
    code, lines = launch(f"tiny,data_dir={tmp_path / 'data'},data_file={rows}")
    assert code == 2 and len(lines) == 1 and "rows.jsonl:2: question" in lines[0]
    rows.write_text(good)
    code, lines = launch(
        f"llada,init_from={tmp_path},data_file={rows},prompts_per_round=32,slices=4"
    )
    assert code == 2 and len(lines) == 1 and str(tmp_path) in lines[0] and "convert.py" in lines[0]


PRESET = """
import dataclasses
from gdsd_jax import models

PRESET = dataclasses.replace(models.MODELS["llada_tiny"], layers=5)
"""


def test_a_model_other_than_the_one_to_start_from_is_refused(launch, workdir, data_dir, tmp_path):
    """Of another family, or with another number of layers; a workdir or a converted model."""
    deeper = tmp_path / "deeper.py"
    deeper.write_text(PRESET)
    converted = tmp_path / "converted"
    denoiser, params, tokenizer = weights.load(workdir)
    model = dataclasses.asdict(denoiser.config)
    checkpoint.save_params(converted, params, {"model": model, "dtype": ["float32"]})
    tokenizers.save(tokenizer, converted)
    for folder in (workdir, converted):
        beside = f"init_from={folder},data_dir={data_dir}"
        for argument, file, named in (
            (f"tiny,{beside}", "configs/opdlm.py", "family=llada, model=a2d_qwen3_tiny has "),
            (f"tiny,model={deeper},{beside}", "configs/coding.py", f"layers=3, model={deeper} has"),
        ):
            code, lines = launch(argument, file)
            assert code == 2 and len(lines) == 1, lines
            assert f"init_from={folder} holds a model of {named}" in lines[0], lines
            assert lines[0].endswith("set the model that it is, or model=none")


FAULTS = {
    "a full disk": (OSError(28, "No space left on device", "m.jsonl"), 1, "No space left"),
    "no number": (FloatingPointError("train step 7: loss is nan"), 1, "train step 7"),
    "another run": (paths.WorkdirError("w: another run is at work there"), 2, "at work there"),
    "no package": (ImportError("Please install gcsfs"), 2, "gcsfs"),
}


@pytest.mark.parametrize(("fault", "code", "said"), FAULTS.values(), ids=FAULTS)
def test_what_ends_a_run_is_one_line(
    main, monkeypatch, capsys, data_dir, tmp_path, fault, code, said
):
    def fail(*_, **__):
        raise fault

    monkeypatch.setattr(train, "train", fail)
    config = f"--config={ROOT}/configs/coding.py:tiny,data_dir={data_dir}"
    monkeypatch.setattr(sys, "argv", ["main.py", config, f"--workdir={tmp_path}"])
    assert main() == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and said in line


@pytest.mark.parametrize("has_checkpoint", [False, True])
def test_an_interrupted_run_promises_a_checkpoint_where_there_is_one(
    main, monkeypatch, capsys, data_dir, tmp_path, has_checkpoint
):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    argument = f"tiny,data_dir={data_dir}"
    if has_checkpoint:
        (tmp_path / "checkpoints" / "5").mkdir(parents=True)
        settings.write(tmp_path, settings.parse(coding.get_config(argument)), "tests")
    monkeypatch.setattr(train, "train", interrupt)
    monkeypatch.setattr(hosts, "leave", sys.exit)  # which ends the process at once
    config = f"--config={ROOT}/configs/coding.py:{argument}"
    monkeypatch.setattr(sys, "argv", ["main.py", config, f"--workdir={tmp_path}"])
    with pytest.raises(SystemExit, match="^130$"):
        main()
    (line,) = capsys.readouterr().err.splitlines()
    assert ("before the first checkpoint" in line) == (not has_checkpoint)
    assert ("goes on from the last checkpoint" in line) == has_checkpoint


@pytest.mark.parametrize("kind", ["other settings", "read-only"])
def test_a_workdir_that_cannot_be_used_is_told_first(
    main, monkeypatch, capsys, workdir, tmp_path, kind
):
    """Before the problems are read, and before all that a run says of itself."""
    monkeypatch.setattr(experiment, "prepare", lambda *_, **__: pytest.fail("the run began"))
    place, said = workdir, "the run there has other settings, "
    if kind == "read-only":
        monkeypatch.setattr("os.access", lambda *_, **__: False)  # root may write everywhere
        place, said = tmp_path / "new" / "run", "nothing can be written there (Permission denied)"
    config = f"--config={ROOT}/configs/coding.py:tiny,seed=7"
    monkeypatch.setattr(sys, "argv", ["main.py", config, f"--workdir={place}"])
    assert main() == 2
    told = capsys.readouterr()
    (line,) = told.err.splitlines()
    assert line.startswith(f"error: {place}: {said}") and told.out == ""
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("override", "code"), [("seed=1", 0), ("keep_best=hue", 2)])
def test_whether_a_run_can_begin(main, monkeypatch, capsys, data_dir, tmp_path, override, code):
    monkeypatch.setattr(train, "train", lambda *_, **__: pytest.fail("the run began"))
    config = f"--config={ROOT}/configs/coding.py:tiny,data_dir={data_dir},{override}"
    flags = ["main.py", config, "--check", f"--workdir={tmp_path / 'run'}"]
    monkeypatch.setattr(sys, "argv", flags)
    assert main() == code
    told = capsys.readouterr()
    assert ("nothing is wrong: without --check the run begins" in told.out) == (code == 0)
    assert ("keep_best=hue" in told.err) == (code == 2)
    assert not (tmp_path / "run").exists()


def test_the_default_workdir_is_named_by_the_overrides(main, monkeypatch, data_dir):
    """So that a second experiment does not look finished."""
    workdirs = []

    def note(prepared, workdir, **_):
        workdirs.append(str(workdir))
        raise train.Interrupted

    monkeypatch.setattr(train, "train", note)
    monkeypatch.setattr(hosts, "leave", sys.exit)  # which ends the process at once
    for overrides in ("rounds=3", "seed=4,rounds=3", "rounds=5,seed=4"):
        config = f"--config={ROOT}/configs/coding.py:tiny,data_dir={data_dir},{overrides}"
        monkeypatch.setattr(sys, "argv", ["main.py", config])
        with pytest.raises(SystemExit, match="143"):
            main()
    runs = ROOT / "runs" / "coding-tiny"
    assert workdirs == [str(runs), f"{runs}-seed-4", f"{runs}-seed-4"]
