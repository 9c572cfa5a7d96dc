"""Model folders that are damaged or of something else; converted ones, workdirs and adapters."""

import json
from pathlib import Path

from tests.bad_inputs.case import Case, nested

CONVERT = "convert --from_hf=DIR/hf --to_orbax=DIR/out"
WEIGHTS = "model.safetensors"
WTE = "model.transformer.wte.weight"


def changed(name: str, **entries):
    """A damage: other entries of a JSON file of DIR/hf; `...` takes one away."""

    def build(folder: Path) -> None:
        change(folder / "hf" / name, entries)

    return build


def change(path: Path, entries: dict) -> None:
    found = json.loads(path.read_text()) if path.exists() else {}
    kept = {key: value for key, value in (found | entries).items() if value is not ...}
    path.write_text(json.dumps(kept))


def put(name: str, content: str | bytes, folder: str = "hf"):
    """A damage: another content of a file."""

    def build(base: Path) -> None:
        data = content if isinstance(content, bytes) else content.encode()
        (base / folder / name).write_bytes(data)

    return build


def header(entry: dict, name: str = WTE):
    """A damage: another entry of a tensor in the safetensors file."""

    def build(folder: Path) -> None:
        path = folder / "hf" / WEIGHTS
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        entries = json.loads(data[8 : 8 + length])
        entries[name] = entries.get(name, {}) | entry
        text = json.dumps(entries).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])

    return build


def cut(folder: Path) -> None:
    path = folder / "hf" / WEIGHTS
    path.write_bytes(path.read_bytes()[:-9])


def renamed(folder: Path) -> None:
    (folder / "hf" / WEIGHTS).rename(folder / "hf" / "weights.safetensors")


def as_folder(name: str):
    """A damage: a folder where a file belongs."""

    def build(folder: Path) -> None:
        (folder / "hf" / name).unlink(missing_ok=True)
        (folder / "hf" / name).mkdir()

    return build


def index(content):
    """A damage: an index over the shard."""
    text = content if isinstance(content, str) else json.dumps(content)
    return put("model.safetensors.index.json", text)


CONFIG = {  # entries of config.json -> part of the line
    "model_type": [(..., "unknown model_type ''"), ("gpt2", "unknown model_type 'gpt2'"), (3, "3")],
    "d_model": [(..., "'d_model' is missing"), ("24", "d_model='24': give a whole number from 1")],
    "n_layers": [
        (0, "n_layers=0: give"),
        (None, "'n_layers' is missing"),
        (2.5, "2.5"),
        (10**12, "n_layers=1000000000000: give a whole number"),
        (10**9, "layers=1000000000 must be at most"),
        (True, "n_layers=True: give"),
    ],
    "n_heads": [(0, "n_heads=0: give"), (-4, "n_heads=-4"), ([4], "n_heads=[4]"), (3, "kv_heads")],
    "n_kv_heads": [(0, "n_kv_heads=0: give"), ("2", "n_kv_heads='2'")],
    "vocab_size": [(..., "'vocab_size' is missing"), ("40", "vocab_size='40'")],
    "embedding_size": [({}, "embedding_size={}: give"), (1 << 40, "embedding_size=1099511627776")],
    "mlp_hidden_size": [
        (None, "'mlp_hidden_size' is missing"),
        (27, "config.json says [24, 27]"),
    ],
    "mask_token_id": [("1", "mask_token_id='1': give an id"), (99, "mask_id=99 lies outside")],
    "pad_token_id": [(-1, "pad_token_id=-1: give an id"), (1.5, "pad_token_id=1.5: give an id")],
    "eos_token_id": [
        ([], "eos_token_id=[]: give an id or a list"),
        (..., "'eos_token_id' is missing"),
        ("</s>", "eos_token_id='</s>': give an id"),
        ([1, "x"], "eos_token_id=[1, 'x']"),
    ],
    "rope_theta": [
        ("1e4", "rope_theta='1e4': give a finite number"),
        (0, "rope_theta=0.0"),
        (1e300, "1e+300"),
    ],
    "rms_norm_eps": [
        ([], "rms_norm_eps=[]: give a finite number"),
        (1 << 31, "norm_eps=2147483648: give a base above 0, below 1e+30, and a number from 0 to"),
        (..., "'rms_norm_eps' is"),
    ],
    "weight_tying": [("no", "weight_tying='no': give true or false"), (0, "weight_tying=0")],
    "rope_scaling": [("x", "rope_scaling='x': give an object"), ({"type": "yarn"}, "yarn")],
    "rope_parameters": [([1], "rope_parameters=[1]: give an object")],
    "num_experts": [("8", "num_experts='8': give a whole number"), (8, "a mixture of experts")],
    "layer_types": [("full", "layer_types='full': give a list"), ([3], "only 'full_attention'")],
    "activation_type": [("gelu", "activation_type='gelu' is not supported, only 'silu'")],
    "rope": [(False, "rope=False is not supported"), (None, "rope=None is not supported")],
}
TEMPLATE = {"chat_template": "x"}
CASES = [
    Case(
        CONVERT + f" --dtype=float32 # {name}={value!r}",
        ("config.json", said),
        {},
        changed("config.json", **{name: value}),
    )
    for name, values in CONFIG.items()
    for value, said in values
]
# name -> (damage, parts of the line)
DAMAGED = {
    "no config": (lambda folder: (folder / "hf/config.json").unlink(), "no config.json there"),
    "empty config": (put("config.json", ""), "config.json: not readable JSON"),
    "config a list": (put("config.json", "[]"), "config.json: a JSON list, not an object"),
    "config deep": (put("config.json", nested(100_000)), "config.json: not readable JSON (nested"),
    "config latin": (put("config.json", b'{"a": "\xe9"}'), "config.json: not readable JSON"),
    "config folder": (
        as_folder("config.json"),
        "config.json: not a readable file (IsADirectoryError)",
    ),
    "no weights": (lambda folder: (folder / "hf" / WEIGHTS).unlink(), "no model.safetensors there"),
    "empty weights": (put(WEIGHTS, b""), "unreadable safetensors file", "download it again"),
    "html": (put(WEIGHTS, b"<html>404</html>"), "unreadable safetensors file"),
    "cut": (cut, "unreadable safetensors file", "download it again"),
    "renamed": (renamed, "no model.safetensors there; download"),
    "weights folder": (as_folder(WEIGHTS), "model.safetensors: unreadable safetensors file"),
    "header list": (put(WEIGHTS, b"\2\0\0\0\0\0\0\0[]"), "unreadable safetensors file"),
    "shape": (header({"shape": [40]}), "does not take the bytes that the header says"),
    "shape words": (header({"shape": "wide"}), "unreadable safetensors file"),
    "shape turned": (header({"shape": [24, 40]}), f"{WTE} has shape [24, 40]"),
    "dtype": (header({"dtype": "I32"}), f"{WTE} is stored as I32, known: F32, F16, BF16"),
    "dtype list": (header({"dtype": []}), "unreadable safetensors file"),
    "shape fractions": (
        header({"shape": [40.0, 24.0]}),
        "data_offsets and shape are whole numbers",
    ),
    "shape flags": (header({"shape": [True, 960]}), "data_offsets and shape are whole numbers"),
    "offsets": (header({"data_offsets": [8]}), "unreadable safetensors file"),
    "index empty": (index(""), "index.json: not readable JSON"),
    "index without map": (index({"metadata": {}}), "entry 'weight_map' is missing; download"),
    "index list": (index({"weight_map": [WEIGHTS]}), "give an object"),
    "index number": (index({"weight_map": {WTE: 3}}), f"{WTE}=3: give a text"),
    "index elsewhere": (index({"weight_map": {WTE: "../x"}}), "give the name of a file beside"),
    "index no shard": (index({"weight_map": {WTE: "b.safetensors"}}), "no b.safetensors there"),
    "index partial": (
        index({"weight_map": {WTE: WEIGHTS}}),
        "missing model.transformer.blocks",
    ),
    "index extra": (index({"weight_map": {"x": WEIGHTS}}), "places x in model.safetensors, which"),
    "tokenizer empty": (put("tokenizer.json", ""), "tokenizer.json is not a readable tokenizer"),
    "tokenizer list": (put("tokenizer.json", "[]"), "tokenizer.json is not a readable tokenizer"),
    "tokenizer folder": (as_folder("tokenizer.json"), "hf"),
    "half a character": (
        put("tokenizer_config.json", '{"chat_template": "\\ud800"}'),
        "tokenizer_config.json: not readable JSON ('\\ud800' in a text is half of a character",
    ),
    "half a character in bytes": (
        put("tokenizer_config.json", b'{"chat_template": "\xed\xa0\x80"}'),
        "is half of a character): copy it again",
    ),
    "settings list": (put("tokenizer_config.json", "[]"), "a JSON list, not an object"),
    "settings word": (
        changed("tokenizer_config.json", bos_token=3),
        "tokenizer_config.json: bos_token=3: give a text",
    ),
    "settings flag": (changed("tokenizer_config.json", eos_token=True), "eos_token=True: give"),
    "settings object": (changed("tokenizer_config.json", pad_token={"a": 1}), "pad_token={'a': 1}"),
    "settings added": (
        changed("tokenizer_config.json", added_tokens_decoder={"x": {"content": "y"}}),
        "added_tokens_decoder has the entry 'x': name it by an id",
    ),
    "settings added list": (
        changed("tokenizer_config.json", added_tokens_decoder=[1]),
        "added_tokens_decoder=[1]: give an object",
    ),
    "settings extra": (
        changed("tokenizer_config.json", additional_special_tokens="x"),
        "additional_special_tokens='x': give a list",
    ),
    "map": (changed("special_tokens_map.json", eos_token=[1]), "eos_token=[1]: give a text"),
    "template number": (changed("tokenizer_config.json", chat_template=3), "chat_template=3: give"),
    "template list": (
        changed("tokenizer_config.json", chat_template=[{"name": "default"}]),
        "the chat template of ",
        "entry 'template' is missing",
    ),
    "template syntax": (
        changed("tokenizer_config.json", chat_template="{% if %}"),
        "the chat template of ",
        "does not compile",
    ),
    "template bytes": (put("chat_template.jinja", b"\xff"), "the chat template of "),
}
CASES += [
    Case(f"{CONVERT} # {name}", said, {}, damage) for name, (damage, *said) in DAMAGED.items()
]


def larger_tokenizer(folder: Path) -> None:
    path = folder / "good" / "tokenizer.json"
    found = json.loads(path.read_text())
    found["model"]["vocab"] |= {f"word{i}": 100 + i for i in range(9)}
    path.write_text(json.dumps(found))


def manifest(**entries):
    """A damage of DIR/good: other entries of manifest.json."""

    def build(folder: Path) -> None:
        change(folder / "good" / "manifest.json", entries)

    return build


def model(**entries):
    """A damage of DIR/good: other entries of the model in manifest.json."""

    def build(folder: Path) -> None:
        found = json.loads((folder / "good" / "manifest.json").read_text())
        change(folder / "good" / "manifest.json", {"model": found["model"] | entries})

    return build


def unlinked(name: str):
    def build(folder: Path) -> None:
        (folder / "good" / name).unlink()

    return build


def emptied(folder: Path) -> None:
    for path in sorted((folder / "good" / "params").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()


GENERATE = "generate --checkpoint=DIR/good --prompt=a"
CONVERTED = {
    "manifest empty": (put("manifest.json", "", "good"), "manifest.json: not readable JSON"),
    "manifest list": (put("manifest.json", "[]", "good"), "a JSON list, not an object: convert"),
    "no model": (manifest(model=None), "entry 'model' is missing; convert the model again"),
    "model list": (manifest(model=[1]), "model=[1]: give an object"),
    "dtype": (manifest(dtype="float32"), "dtype='float32': give a list of texts"),
    "family": (model(family="gpt"), "family='gpt': this version knows no such family"),
    "layers": (model(layers="3"), "layers='3': give a whole number"),
    "unknown": (model(experts=8), "entry 'experts' is unknown"),
    "other width": (model(d_ff=64), "good"),
    "stop ids": (model(stop_ids=[]), "stop_ids=[]: give a list of ids"),
    "tokenizer": (unlinked("tokenizer.json"), "no tokenizer in "),
    "larger tokenizer": (larger_tokenizer, "the tokenizer has 109 ids, the model only 40"),
    "no params": (emptied, "good"),
}
CASES += [
    Case(f"{GENERATE} # {name}", said, {}, damage) for name, (damage, *said) in CONVERTED.items()
]
ON_HUB = "convert it with `python launch/convert.py --from_hf=owner/name --to_orbax="
PEFT = {"a/adapter_config.json": "{}", "a/adapter_model.safetensors": ""}
NO_MODEL = "holds adapters of the PEFT library and no model"
OVER_MODEL = "--from_hf=MODEL --adapter=DIR/a --to_orbax="
NEITHER = "has neither the manifest.json of a converted model nor a run's config.json"
CASES += [
    Case("generate --checkpoint=DIR/none --prompt=a", ("DIR/none", NEITHER)),
    Case("generate --checkpoint=DIR/empty/.. --prompt=a", (NEITHER,), {"empty/x": ""}),
    Case("generate --checkpoint=DIR/file --prompt=a", ("DIR/file", NEITHER), {"file": "x"}),
    Case("eval --checkpoint=HF --out=DIR/x", ("is a Hugging Face folder: convert it with",)),
    Case("generate --checkpoint=owner/name --prompt=a", ("owner/name is no folder here", ON_HUB)),
    Case("eval --checkpoint=owner/name --out=DIR/x", ("=owner/name is no folder here", ON_HUB)),
    Case(
        "main --config=configs/coding.py:tiny,init_from=owner/name --workdir=DIR/w",
        ("init_from=owner/name is no folder here", ON_HUB),
    ),
    Case(
        "generate --checkpoint=DIR/work/checkpoints/57 --prompt=a",
        ("DIR/work/checkpoints/57 is a part of DIR/work: give DIR/work",),
        {"work/config.json": {"format": 2}, "work/checkpoints/57/x": ""},
    ),
    Case(
        "generate --checkpoint=DIR/good/params --prompt=a",
        ("DIR/good/params is a part of DIR/good: give DIR/good",),
    ),
    Case(
        "generate --checkpoint=DIR/model.gguf --prompt=a",
        ("is a GGUF file: convert it with", "--from_gguf=DIR/model.gguf"),
        {"model.gguf": ""},
    ),
    Case("generate --checkpoint=DIR/a --prompt=a", (NO_MODEL, OVER_MODEL), PEFT),
    Case("convert --from_hf=DIR/a --to_orbax=DIR/out", (NO_MODEL, OVER_MODEL), PEFT),
    Case(
        "main --config=configs/coding.py:tiny,init_from=DIR/a --workdir=DIR/w",
        (f"init_from=DIR/a {NO_MODEL}", OVER_MODEL),
        PEFT,
    ),
    Case(
        "generate --checkpoint=DIR/work --prompt=a",
        ("DIR/work/config.json: not readable JSON",),
        {"work/config.json": "{", "work/checkpoints/3/x": ""},
    ),
    Case(
        "generate --checkpoint=DIR/work --prompt=a",
        ("DIR/work/config.json: unknown config key 'speed'",),
        {"work/config.json": {"format": 2, "speed": 3}, "work/checkpoints/3/x": ""},
    ),
    Case(
        "generate --checkpoint=DIR/work --prompt=a",
        ("DIR/work/config.json: format 99, this version, ",),
        {"work/config.json": {"format": 99}, "work/checkpoints/3/x": ""},
    ),
    Case("convert --from_orbax=DIR/none --to_hf=DIR/out", ("DIR/none",)),
    Case("convert --from_orbax=DIR/file --to_hf=DIR/out", ("DIR/file",), {"file": "x"}),
    Case(
        "convert --from_orbax=DIR/good --to_hf=DIR/out # manifest",
        ("config=3: give an object",),
        {},
        manifest(config=3),
    ),
    Case("convert --from_orbax=GOOD --to_hf=DIR/out --lora=keep", ("there are no adapters",)),
    Case(
        "convert --from_hf=HF --to_orbax=DIR/out",
        ("is not empty; name a new folder",),
        {"out/x": "x"},
    ),
]
# ---------------------------------------------------------------- adapters

ADAPTER = "convert --from_hf=HF --adapter=DIR/a --to_orbax=DIR/out"
LORA = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
ADAPTERS = [
    (None, "no adapter_config.json there"),
    ("", "adapter_config.json: not readable JSON"),
    ([], "adapter_config.json: a JSON list"),
    (LORA | {"r": "2"}, "r='2': give a whole number"),
    (LORA | {"r": None}, "entry 'r' is missing"),
    (LORA | {"lora_alpha": [4]}, "lora_alpha=[4]: give a finite number"),
    (LORA | {"use_rslora": "yes"}, "use_rslora='yes': give true or false"),
    (LORA | {"peft_type": "IA3"}, "peft_type='IA3' is not supported, only 'LORA'"),
    (LORA | {"bias": "all"}, "bias='all' is not supported"),
    (LORA, "no adapter_model.safetensors there"),
]
CASES += [
    Case(
        f"{ADAPTER} # {content!r}",
        (said,),
        {"a/x": ""} if content is None else {"a/adapter_config.json": content},
    )
    for content, said in ADAPTERS
]
