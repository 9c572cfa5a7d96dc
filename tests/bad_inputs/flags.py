"""Flags, config files and other files of the scripts."""

from tests.bad_inputs.case import Case, nested

CODING = "--config=configs/coding.py:tiny,data_dir=DATA"
GSM = "--config=configs/gsm8k.py:tiny,data_file=DIR/rows.jsonl"
PROBLEM = {"question": "q", "answer": "#### 3"}

FLAGS = {
    # what argparse finds
    "main": "the following arguments are required: --config",
    "main --config": "argument --config: expected one argument",
    f"main {CODING} --rounds=3": "--rounds=3; settings follow in --config, as FILE.py:MODEL,key=v",
    f"main {CODING} --print-config": "--print-config; near it: --print_config; --help tells all",
    f"main {CODING} --output_dir=x": "--output_dir=x; near it: --workdir; --help tells all flags",
    f"main {CODING} --work_dir=x": "--work_dir=x; near it: --workdir; --help tells all flags",
    "generate --checkpoint=GOOD --prompt=a --max_new_tokens=8": "it: --sampler=gen_length=N; --he",
    "generate --checkpoint=GOOD --prompt=a --max-tokens=8": "near it: --sampler=gen_length=N; --he",
    "generate --checkpoint=GOOD --prompt=a --temprature=1": "near it: --temperature; --help tells",
    "generate --checkpoint=GOOD --prompt=a --top_p=1": "near it: --sampler=top_p=P; --help tells",
    "generate --checkpoint=GOOD --prompt=a --batch-size=2": "near it: --batch; --help tells all",
    "generate --checkpoint=GOOD --prompt=a --beams=2": "unrecognized arguments: --beams=2; --help",
    f"main {CODING} --profile=x": "argument --profile: invalid int value: 'x'",
    f"main {CODING},rounds=3 --profile=0": "--profile=0: the run has rounds=3, counted from 1:",
    f"main {CODING},rounds=3 --profile=4": "--profile=4: the run has rounds=3, counted from 1:",
    f"main {CODING} --num_processes=two": "argument --num_processes: invalid int value: 'two'",
    f"main {CODING} --num_processes=2": "give --coordinator=HOST:PORT",
    f"main {CODING} --coordinator=a:b --num_processes=2 --process_id=0": "--coordinator=a:b: give",
    f"main {CODING} --coordinator=a:1 --num_processes=0 --process_id=0": "--num_processes=0",
    f"main {CODING} --coordinator=a:1 --num_processes=2 --process_id=-1": "--process_id=-1",
    f"main {CODING} --workdir=http://host/x": "http://host/x: give a local path or gs://",
    f"main {CODING} --workdir=DIR/file": "--workdir=DIR/file: DIR/file is a file; name",
    f"main {CODING} --workdir=DIR/file/x": "DIR/file is a file; name a folder",
    # config files
    "main --config=DIR/none.py --workdir=DIR/w": "no file DIR/none.py; there are the recipes",
    "main --config=DIR --workdir=DIR/w": "no file DIR; there are the recipes coding, ",
    "main --config= --workdir=DIR/w": "--config",
    "main --config=DIR/file --workdir=DIR/w": "DIR/file",
    "main --config=ftp://a/b.py --workdir=DIR/w": "ftp://a/b.py: give a local path or gs://",
    "main --config=configs/coding.py:huge --workdir=DIR/w": "unknown model 'huge', this config",
    "main --config=configs/common.py --workdir=DIR/w": "common.py has no get_config(arg)",
    # generate
    "generate": "the following arguments are required: --checkpoint",
    "generate --checkpoint=GOOD": "one of the arguments --prompts --prompt --chat is required",
    "generate --checkpoint=GOOD --prompt=a --chat": "not allowed with argument",
    "generate --checkpoint=GOOD --prompt=": "prompt is not a non-empty string: give what is",
    "generate --checkpoint=GOOD --prompt=a --batch=0": "--batch=0 must be at least 1",
    "generate --checkpoint=GOOD --prompt=a --batch=x": "argument --batch: invalid int value: 'x'",
    "generate --checkpoint=GOOD --prompt=a --seed=-1": "--seed=-1 must be at least 0",
    "generate --checkpoint=GOOD --prompt=a --seed=99999999999": "at most 4294967295",
    "generate --checkpoint=GOOD --prompt=a --temperature=nan": "--temperature=nan must be",
    "generate --checkpoint=GOOD --prompt=a --temperature=inf": "--temperature=inf must be at least",
    "generate --checkpoint=GOOD --prompt=a --threshold=0": "--threshold=0.0 must lie in (0, 1]",
    "generate --checkpoint=GOOD --prompt=a --threshold=90": "--threshold=90.0 must lie in (0, 1]",
    "generate --checkpoint=GOOD --prompt=a --threshold=nan": "--threshold=nan must lie in (0, 1]",
    "generate --checkpoint=GOOD --prompt=a --prompt_length=0": "--prompt_length=0 must be",
    "generate --checkpoint=GOOD --prompt=a --dtype=int8": "argument --dtype: invalid choice",
    "generate --checkpoint=GOOD --prompt=a --too_long=keep": "argument --too_long: invalid choice",
    "generate --checkpoint=GOOD --prompt=aaaaaaaa --prompt_length=2": "over --prompt_length=2",
    "generate --checkpoint=GOOD --prompt=aaaa --prompt_length=2 --too_long=error": "--too_long=cut",
    "generate --checkpoint=GOOD --prompt=a --sampler=steps": "--sampler: 'steps' is no key=value",
    "generate --checkpoint=GOOD --prompt=a --sampler=steps=x": "--sampler: config key 'steps'",
    "generate --checkpoint=GOOD --prompt=a --sampler=gen_length=0": "--sampler: gen_length=0",
    "generate --checkpoint=GOOD --prompt=a --mesh=data=3": "does not fit 8 devices",
    "generate --checkpoint=GOOD --prompt=a --mesh=rows=2": "--mesh: 'rows=2' is no key=value",
    "generate --checkpoint=GOOD --prompt=a --mesh=data=x": "--mesh: config key 'data' takes int",
    "generate --checkpoint=GOOD --prompt=a --out=DIR": "--out=DIR: that is a folder; name a file",
    "generate --checkpoint=GOOD --prompt=a --out=DIR/no/x": "no folder DIR/no; name a file",
    "generate --checkpoint=GOOD --prompts=DIR/none": "--prompts=DIR/none is not a readable UTF-8",
    "generate --checkpoint=GOOD --prompts=DIR": "--prompts=DIR is not a readable UTF-8 file",
    "generate --checkpoint=GOOD --chat --raw": "--chat prints its answers",
    # eval
    "eval": "--again=FILE, --rescore=FILE and --compare A.json B.json",
    "eval --checkpoint=GOOD": "--checkpoint needs --out too",
    "eval --checkpoint=GOOD --out=DIR/x": "is a converted model: give --config too, which names",
    "eval --checkpoint=DIR/none --out=DIR/x": "DIR/none has neither the manifest.json",
    f"eval --checkpoint=GOOD {CODING}": "--checkpoint needs --out too",
    f"eval --checkpoint=GOOD {CODING} --out=DIR/no/x": "no folder DIR/no; name a file",
    f"eval --checkpoint=GOOD {CODING} --out=DIR/x --samples=0": "--samples=0 must be at least 1",
    f"eval --checkpoint=GOOD {CODING} --out=DIR/x --lengths=x": "--lengths=x: give numbers of",
    f"eval --checkpoint=GOOD {CODING} --out=DIR/x --lengths=8,8": "--lengths=8,8: give numbers",
    f"eval --checkpoint=GOOD {CODING} --out=DIR/x --lengths=-8": "-8",
    f"eval --checkpoint=GOOD {CODING} --out=DIR/x --thresholds=2": "--thresholds=2: give probab",
    f"eval --checkpoint=GOOD {CODING} --out=DIR/x --thresholds=nan": "--thresholds=nan: give",
    f"eval --checkpoint=DIR/none {CODING} --out=DIR/x": "DIR/none has neither the manifest.json",
    "eval --again=DIR/none --out=DIR/x": "DIR/none is not a readable file (FileNotFoundError)",
    "eval --again=DIR/file --out=DIR/x": "DIR/file: not JSON",
    "eval --again=DIR/x --out=DIR/x": "--out=DIR/x would be written over what is read",
    "eval --again=DIR/x --out=DIR/./x": "--out=DIR/./x would be written over what is read",
    "eval --compare DIR/a DIR/b --out=DIR/./b": "--out=DIR/./b would be written over what is read",
    "eval --checkpoint=GOOD --out=GOOD/metrics.jsonl": "would be written over what is read",
    "generate --checkpoint=GOOD --prompts=DIR/x --out=DIR/./x": "would be written over what is",
    "eval --compare": "--compare takes two different files, not none",
    "eval --compare DIR/a": "--compare takes two different files, not DIR/a",
    "eval --compare DIR/a DIR/a": "--compare takes two different files",
    "eval --compare DIR/none DIR/file": "DIR/none is not a readable file",
    "eval --compare DIR/file DIR/none --samples=2": "--samples asks a model",
    "eval --compare DIR/file DIR/none --fresh": "--compare reads no --fresh: leave it out",
    f"eval --compare DIR/file DIR/none {CODING}": "--compare reads no --config: leave it out",
    f"eval --again=DIR/x --out=DIR/y {CODING}": "--again reads no --config: leave it out",
    f"eval --rescore=DIR/x --out=DIR/y {CODING} --fresh": "--rescore reads no --fresh: leave",
    # compare
    "compare": "the following arguments are required: NAME=OVERRIDES, --config, --out",
    f"compare a= {CODING}": "the following arguments are required: --out",
    f"compare a {CODING} --out=DIR/o": "variant 'a' is not of the form NAME=OVERRIDES",
    f"compare =x {CODING} --out=DIR/o": "variant '=x' is not of the form NAME=OVERRIDES",
    f"compare a= a= {CODING} --out=DIR/o": "variant 'a' is given twice: choose another name",
    f"compare a/b= {CODING} --out=DIR/o": "variant 'a/b' names no folder of its own",
    f"compare ..= {CODING} --out=DIR/o": "variant '..' names no folder of its own",
    f"compare start= {CODING} --out=DIR/o": "variant 'start' names no folder of its own",
    f"compare a=rounds=x {CODING} --out=DIR/o": "variant 'a': config key 'rounds' takes int values",
    f"compare a= b=lr=3 {CODING} --out=DIR/o": "variant 'b': unknown config key 'lr'; near it: opt",
    f"compare a= {CODING} --out=DIR/o --seeds=x": "--seeds=x: give whole numbers such as 0,1",
    f"compare a= {CODING} --out=DIR/o --seeds=": "--seeds=: give whole numbers such as 0,1,2",
    f"compare a= {CODING} --out=DIR/o --seeds=-1": "seed=-1 must be at least 0",
    f"compare a= {CODING} --out=DIR/o --seeds=1,1": "such as 0,1,2, each once",
    f"compare a= {CODING} --out=DIR/o --tune=optimizer.learning_rate=x/1": "takes float values",
    f"compare a= {CODING} --out=DIR/o --tune=gdsd.psi=1/-1": "psi=-1.0 must not be negative",
    f"compare a= {CODING} --out=DIR/o --tune=psi": "--tune=psi: give KEY=VALUE/VALUE",
    f"compare a= {CODING} --out=DIR/o --tune=x=1/1": "--tune=x=1/1: give KEY=VALUE/VALUE",
    f"compare a= {CODING} --out=DIR/o --tune=x=1/2 --tune=x=3/4": "x is tuned twice",
    f"compare a= {CODING} --out=DIR/o --halvings=-1": "--halvings=-1: give a number of at least 0",
    f"compare a= {CODING} --out=DIR/o --samples=0": "--samples=0: give a number of at least 1",
    f"compare a= {CODING} --out=gs://b/o": "--out=gs://b/o: give a local folder",
    f"compare a= {CODING} --out=DIR/file": "DIR/file",
    "compare a= --config=DIR/none.py --out=DIR/o": "no file DIR/none.py",
    # convert
    "convert": "give either --from_hf or --from_gguf, and --to_orbax; or --from_orbax and --to_hf",
    "convert --from_hf=HF": "give either --from_hf or --from_gguf",
    "convert --from_hf=HF --from_orbax=GOOD --to_orbax=DIR/o": "give either --from_hf",
    "convert --from_hf=DIR/none --to_orbax=DIR/o": "DIR/none: no config.json there",
    "convert --from_hf=HF --to_orbax=http://host/x": "http://host/x: give a local path or gs://",
    "convert --from_hf=HF --to_orbax=DIR/o --lora=keep": "--lora belongs to --from_orbax or",
    "convert --from_hf=HF --to_orbax=DIR/o --mask_token=x": "--mask_token belongs to --a2d",
    "convert --from_hf=HF --to_orbax=DIR/o --a2d": "cannot become a denoiser",
    "convert --from_hf=HF --to_orbax=DIR/file": "--to_orbax=DIR/file: DIR/file is a file; name",
    "convert --from_hf=HF --to_orbax=DIR/file/o": "DIR/file",
    "convert --from_hf=HF --to_orbax=DIR/o --dtype=int8": "argument --dtype: invalid choice",
    "convert --from_orbax=GOOD --to_hf=DIR/o --a2d": "--a2d belongs to --from_hf",
    "convert --from_orbax=GOOD --to_hf=DIR/o --adapter=DIR": "--adapter belongs to --from_hf",
    "convert --from_orbax=GOOD --to_hf=DIR/o --max_shard_gb=x": "--max_shard_gb: invalid float",
    "convert --from_orbax=GOOD --to_hf=DIR/o --max_shard_gb=nan": "--max_shard_gb=nan",
    "convert --from_orbax=GOOD --to_hf=DIR/o --max_shard_gb=0": "--max_shard_gb=0",
    "convert --from_orbax=GOOD --to_hf=DIR/o --max_shard_gb=inf": "--max_shard_gb=inf",
    # plan
    f"plan {CODING}": "the following arguments are required: --topology",
    f"plan {CODING} --topology=v9:2x2": "--topology=v9:2x2: give v4 or v5e or v5p or v6e",
    f"plan {CODING} --topology=v5e": "--topology=v5e: give v4 or",
    f"plan {CODING} --topology=v5e:4x4 --num_slices=0": "--num_slices=0: TPUs have one or more",
    f"plan {CODING} --topology=v5e:4x4 --json=DIR": "--json=DIR: that is a folder; name a file",
    "plan --config=DIR/none.py --topology=v5e:4x4": "no file DIR/none.py",
    # bench
    "bench --size=huge": "argument --size: invalid choice: 'huge'",
    "bench --parts=all": "--parts=all: 'all' is none of rollout, update, samplers, programs",
    "bench --parts=": "--parts=: '' is none of rollout",
    "bench --size=tiny --json=DIR": "--json=DIR: that is a folder; name a file",
    "bench --size=tiny --json=DIR/no/x": "no folder DIR/no; name a file",
    # harness
    "harness": "the following arguments are required: --tasks, --checkpoint",
    "harness --checkpoint=GOOD --tasks=gsm8k --limit=0": "--limit=0 leaves no problems",
    "harness --checkpoint=GOOD --tasks=gsm8k --draws=0": "--draws=0 must be at least 1",
    "harness --checkpoint=GOOD --tasks=gsm8k --limit=inf": "--limit=inf",
    "harness --checkpoint=GOOD --tasks=gsm8k --num_fewshot=-1": "--num_fewshot=-1 must be at least",
    "harness --checkpoint=GOOD --tasks=gsm8k --max_length=1": "--max_length=1 must be at least 2",
    "harness --checkpoint=GOOD --tasks=gsm8k --out=DIR": "--out=DIR: that is a folder",
}
CASES = [Case(command, (said,), {"file": "{"}) for command, said in FLAGS.items()]
# ---------------------------------------------------------------- config files

RETURNS = {  # body of get_config -> part of the line
    "return None": "get_config returns ConfigDict(recipe=..., overrides=...)",
    "return {'recipe': {}, 'overrides': ()}": "get_config returns ConfigDict",
    "return 3": "not a int",
    "return ConfigDict({'seed': 1})": "get_config returns ConfigDict",
    "return ConfigDict({'recipe': 3, 'overrides': ()})": "recipe is a int",
    "return ConfigDict({'recipe': {}, 'overrides': 3})": "overrides is no list of texts key=value",
    "return ConfigDict({'recipe': {}, 'overrides': ('seed',)})": "overrides is no list of texts",
    "return ConfigDict({'recipe': {'seed': 'x'}, 'overrides': ()})": "'seed' takes int values",
    "return ConfigDict({'recipe': {'seed': None}, 'overrides': ()})": "'seed' takes int values",
    "return ConfigDict({'recipe': {'model': 3}, 'overrides': ()})": "'model' takes words",
    "return ConfigDict({'recipe': {'init_from': 2024}, 'overrides': ()})": "'init_from' takes",
    "return ConfigDict({'recipe': {'optimizer': 3}, 'overrides': ()})": "'optimizer'",
    "return ConfigDict({'recipe': {'seed': {'a': 1}}, 'overrides': ()})": "'seed.a'",
    "return ConfigDict({'recipe': {'max_lengths': {'a': 'b'}}, 'overrides': ()})": "max_lengths",
    "raise SystemExit(3)": "get_config of DIR/mine.py fails: SystemExit: 3",
    "raise KeyError('x')": "get_config of DIR/mine.py fails: KeyError: 'x'",
    "return 1 / 0": "get_config of DIR/mine.py fails: ZeroDivisionError",
    "return get_config(arg)": "get_config of DIR/mine.py fails: RecursionError",
    "raise ValueError('two\\nlines')": "error: two lines",
}
MINE = "main --config=DIR/mine.py --workdir=DIR/work"
HEAD = "from ml_collections import ConfigDict\n\n\ndef get_config(arg=None):\n    "
CASES += [
    Case(f"{MINE} # {body}", (said,), {"mine.py": HEAD + body + "\n"})
    for body, said in RETURNS.items()
]
FILES = {  # text of a config file -> part of the line
    "": "DIR/mine.py has no get_config(arg)",
    "import nothing_of_that_name": "--config=DIR/mine.py fails: ModuleNotFoundError",
    "def get_config(": "--config=DIR/mine.py fails: SyntaxError",
    "raise SystemExit": "--config=DIR/mine.py fails: SystemExit",
    "1 / 0": "--config=DIR/mine.py fails: ZeroDivisionError",
    "get_config = 3": "get_config of DIR/mine.py fails: TypeError",
    "def get_config():\n    pass": "get_config of DIR/mine.py fails: TypeError",
    "\0": "--config=DIR/mine.py fails: ",
}
CASES += [
    Case(f"{MINE} # {text[:20]!r}", (said,), {"mine.py": text}) for text, said in FILES.items()
]
# ---------------------------------------------------------------- files of answers

ROW = PROBLEM | {"completion": "3"}
RESCORE = f"eval --rescore=DIR/a.jsonl {GSM} --out=DIR/out.json"
OWN = {
    "items": [{"problem": 0, "completion": "x"}],
    "prompts": [{"record": PROBLEM}],
    "manifest": {"format": 1, "settings": {"task": "gsm8k"}, "samplers": []},
}
RESCORED = [
    ("", "DIR/a.jsonl is empty, there is nothing to grade: give rows"),
    ("{", "DIR/a.jsonl: not JSON ("),
    ("[]", "DIR/a.jsonl is an empty list"),
    ("3", "DIR/a.jsonl is not a list with completions"),
    (b"\xff", "DIR/a.jsonl is not a readable UTF-8 file: write it as UTF-8"),
    (nested(100_000), "nested more than 100 deep"),
    (PROBLEM, "DIR/a.jsonl:1: completion is missing: give the answer's text"),
    (ROW | {"completion": 3}, "DIR/a.jsonl:1: completion is not a string"),
    (ROW | {"completion": ["x"]}, "DIR/a.jsonl:1: completion is not a string"),
    (ROW | {"completion": None}, "DIR/a.jsonl:1: completion is not a string"),
    (ROW | {"completion": "\ud800"}, "DIR/a.jsonl:1: completion: a lone surrogate"),
    (ROW | {"question": []}, "DIR/a.jsonl:1: question is not a non-empty string"),
    ([ROW, 3], "DIR/a.jsonl[1]: not a JSON object"),
    ({"generations": 3}, "generations is not a list with completions"),
    ({"generations": [3]}, "DIR/a.jsonl: generations[0]: not a JSON object"),
    ({"items": []}, "DIR/a.jsonl: not a whole file of launch/eval.py: evaluate again"),
    (OWN | {"manifest": 3}, "not a whole file of launch/eval.py"),
    (OWN | {"items": [3]}, "items[0]: not an item of one of its 1 prompts"),
    (OWN | {"items": [{"problem": -1}]}, "items[0]: not an item of one of its 1 prompts"),
    (
        OWN | {"manifest": OWN["manifest"] | {"format": "x"}},
        "DIR/a.jsonl: format='x' is no number from 1 on",
    ),
]
CASES += [
    Case(f"{RESCORE} # {str(content)[:40]!r}", (said,), {"a.jsonl": content})
    for content, said in RESCORED
]
AGAIN = {
    "items": [{"problem": 0, "grades": {"reward": 1.0, "solved": 1.0}}],
    "prompts": [{}],
    "manifest": {"format": 1, "checkpoint": "x", "settings": {}, "samplers": []},
}
for command in ("eval --again=DIR/a --out=DIR/o", "eval --compare DIR/a DIR/b"):
    CASES += [
        Case(f"{command} # {name}", (said,), {"a": content, "b": content})
        for name, content, said in (
            ("list", [1], "DIR/a: not a file of launch/eval.py: evaluate or rescore first"),
            ("object", {"a": 1}, "DIR/a: not a file of launch/eval.py"),
            ("half", AGAIN, "not a whole file of launch/eval.py"),
            ("no manifest", {"items": []}, "not a whole file of launch/eval.py"),
        )
    ]
PROMPTS = "generate --checkpoint=GOOD --prompts=DIR/p.jsonl --out=DIR/out.jsonl"
ASKED = [
    ("", "DIR/p.jsonl has no rows: give one JSON object a line"),
    ("[]", "DIR/p.jsonl:1: not a JSON object"),
    ("{}", "DIR/p.jsonl:1: question is missing: give what is asked in words, or messages"),
    ('{"prompt": 3}', "DIR/p.jsonl:1: prompt is not a non-empty string"),
    ('{"prompt": ["a"]}', "DIR/p.jsonl:1: prompt is not a non-empty string"),
    ('{"prompt": false}', "DIR/p.jsonl:1: prompt is not a non-empty string"),
    ('{"prompt": "a", "messages": 3}', "messages is not a list of"),
    ('{"messages": [{"role": "user", "content": 0}]}', "messages is not a list of"),
    ('{"messages": {"role": "user"}}', "messages is not a list of"),
    ('{"prompt": "\\ud800"}', "DIR/p.jsonl:1: prompt: a lone surrogate"),
    ('{"prompt": "a", "b": ' + nested(100_000) + "}", "nested more than 100 deep"),
    ('{"prompt": "a", "b": ' + nested(100_000, "{}") + "}", "nested more than 100 deep"),
    ('{"prompt": "a", "b": ' + nested(300) + "}", "nested more than 100 deep"),
    ('{"prompt": ' + "1" * 5000 + "}", "DIR/p.jsonl:1: not JSON"),
    (b'{"prompt": "\xff"}', "is not a readable UTF-8 file (UnicodeDecodeError): write it as UTF-8"),
]
CASES += [
    Case(f"{PROMPTS} # {str(content)[:40]!r}", (said,), {"p.jsonl": content})
    for content, said in ASKED
]
