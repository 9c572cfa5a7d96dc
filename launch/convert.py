"""Converts models between Hugging Face folders and those that runs start from.

  python launch/convert.py --from_hf=DIR --to_orbax=DIR [--dtype=bfloat16]
      a Hugging Face folder, to train from; owner/name or owner/name@revision, where no folder of
      that name is, is downloaded from the Hugging Face hub (`pip install huggingface_hub`)
  python launch/convert.py --from_gguf=FILE --to_orbax=DIR [--dtype=bfloat16]
      a GGUF file of a Llama, Qwen2 or Qwen3, in float32 unless --dtype says otherwise
      (`pip install gguf`)
  ... --a2d [--mask_token="<|name|>"]
      an autoregressive model, to be distilled into a denoiser
  ... --adapter=DIR [--lora=merge|keep]
      with adapters that the PEFT library saved
  python launch/convert.py --from_orbax=DIR --to_hf=DIR [--lora=merge|keep]
      a converted folder or a workdir, back, with a model card, README.md, of what the run says
  ... --evaluation=FILE.json [--evaluation=BEFORE.json]
      what launch/eval.py wrote of these weights, and of others to compare with, in the card too
  ... --push=USER/NAME [--private]
      and uploads the folder to the Hugging Face hub (`pip install huggingface_hub`); it stays here

Every DIR is a local folder or a gs:// address. A workdir stands for its newest checkpoint. With
--lora=merge (the default) adapters are summed into the weights, in float32. With --lora=keep a
folder of --to_hf holds the adapters alone, in the layout of the PEFT library, and one of --to_orbax
both, from which a run of adapters goes on. A quantised GGUF file gives the values that it stands
for, not those of the model it was made from.

With --a2d the weights stay what they are; the config says a2d-..., and the tokenizer gets a mask
token. It takes the first row of the embedding that the tokenizer leaves free. Where none is free,
the vocabulary is filled up to the next multiple of 128 by rows that are the mean of the others, and
so is the head; those behind the mask are never sampled. --mask_token names a token of the tokenizer
that becomes the mask instead. configs/opdlm.py trains the model. Its blocks are those of the run's
sampler: --to_hf writes them to config.json, as block_size.

A local destination appears when it is complete. In an object store its last file appears last:
manifest.json or config.json. Exit codes: 0 done; 2 bad input, lines say which; 1 a fault. The
destination is then untouched.
"""

import argparse
from collections.abc import Callable, Collection, Iterator, Sequence
import contextlib
import dataclasses
import functools
import hashlib
import math
import pathlib
import sys
import tempfile
from typing import NamedTuple
import warnings

# `python launch/convert.py` puts launch/ there, not the repository
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from gdsd_jax import interrupts

if __name__ == "__main__":
    interrupts.watch()  # the imports below take their time

from gdsd_jax import paths
from gdsd_jax.cli import Parser, check_writable, output_folder, place, run, told
from gdsd_jax.mistakes import Gathered


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--from_hf", metavar="DIR", help="a folder, or a name on the hub")
    places = {"from_gguf": "FILE", "to_orbax": "DIR", "from_orbax": "DIR", "to_hf": "DIR"}
    for name, what in places.items():
        parser.add_argument(f"--{name}", type=place, metavar=what)
    parser.add_argument(
        "--lora", choices=("merge", "keep"), help="what becomes of adapters; by default merge"
    )
    parser.add_argument(
        "--adapter", type=place, metavar="DIR", help="adapters over what is converted"
    )
    parser.add_argument("--a2d", action="store_true", help="make it the start of a denoiser")
    parser.add_argument("--mask_token", metavar="TOKEN", help="of the tokenizer; with --a2d")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="by default the source's own, float32 of a GGUF file",
    )
    parser.add_argument(
        "--max_shard_gb", type=float, default=5.0, help="of the files of --to_hf, in 1e9 bytes"
    )
    add_card(parser)
    return parser.checked(check_flags, argv)


def add_card(parser: argparse.ArgumentParser) -> None:
    """What is said of a folder of --to_hf, and where it goes."""
    parser.add_argument(
        "--evaluation",
        metavar="FILE",
        action="append",
        default=[],
        help="of launch/eval.py, for the model card of --to_hf; may be given several times",
    )
    parser.add_argument("--push", metavar="USER/NAME", help="upload --to_hf to the hub")
    parser.add_argument(
        "--private", action="store_true", help="let nobody else see what --push makes"
    )


def check_flags(args: argparse.Namespace) -> None:
    """Mistakes of the flags."""
    sources = [name for name in ("from_hf", "from_gguf") if getattr(args, name) is not None]
    given = {name for name in (*sources, "to_orbax", "from_orbax", "to_hf") if getattr(args, name)}
    is_import = len(sources) == 1 and given == {*sources, "to_orbax"}
    lora_belongs = args.adapter or not sources
    of_export = [name for name in ("push", "private", "evaluation") if getattr(args, name)]
    mistakes = {
        f"--max_shard_gb={args.max_shard_gb} must be above 0, such as 5": (
            not 0 < args.max_shard_gb < math.inf
        ),
        "give either --from_hf or --from_gguf, and --to_orbax; or --from_orbax and --to_hf": (
            not is_import and given != {"from_orbax", "to_hf"}
        ),
        "--a2d belongs to --from_hf and --from_gguf": args.from_orbax and args.a2d,
        "--mask_token belongs to --a2d": args.mask_token and not args.a2d,
        "--adapter belongs to --from_hf and --from_gguf": args.from_orbax and args.adapter,
        "--lora belongs to --from_orbax or --adapter": args.lora and not lora_belongs,
        f"--{', --'.join(of_export)} belongs to --to_hf": of_export and not args.to_hf,
        "--private belongs to --push": args.private and not args.push,
        f"--push takes a local folder: give another --to_hf than {args.to_hf}": (
            args.push and args.to_hf and paths.is_remote(args.to_hf)
        ),
    }
    wrong = Gathered()
    wrong.lines += [line for line, is_made in mistakes.items() if is_made]
    for name, folder in (("to_orbax", args.to_orbax), ("to_hf", args.to_hf)):
        with wrong.check():
            if folder is not None:
                check_writable(f"--{name}", folder, output_folder(f"--{name}", folder))
    wrong.end()


if __name__ == "__main__":
    arguments()  # tells what is wrong before the imports below, which take seconds

import absl.logging
from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from gdsd_jax import (
    adapters,
    checkpoint,
    gguf_file,
    hf,
    hub,
    json_files,
    mask_rows,
    misplaced,
    model_card,
    models,
    origin,
    tokenizers,
    weights,
)

# tokenizer, generation settings, the model's own code
COMPANIONS = (".json", ".txt", ".jinja", ".model", ".py")
NOT_COMPANIONS = ("config.json", "manifest.json", "model.safetensors.index.json")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")


class Origin(NamedTuple):
    """What is to be converted into a folder to train from."""

    folder: epath.Path  # with tokenizer files
    config: models.ModelConfig
    entries: dict  # of config.json
    name: str  # as the manifest has it
    files: list[epath.Path]  # of which the manifest holds hashes
    open: Callable  # (config, dtype=None) -> LazyArrays


class Source(NamedTuple):
    """What is to be written as a Hugging Face folder."""

    config: object  # ModelConfig, with the adapters' rank and alpha where there are any
    params: dict  # LazyArrays
    adapters: dict | None  # arrays
    companions: epath.Path  # folder of tokenizer files
    entries: dict  # of the config.json that the model came with
    base: str  # where that came from; "" of random weights
    license: dict  # of that, as its own model card says it
    plain: bool = True  # whether the weights, without the adapters, are those of `base`
    workdir: epath.Path | None = None  # of the run that trained it


@contextlib.contextmanager
def origin_of(args: argparse.Namespace) -> Iterator[Origin]:
    """The folder, the repository or the file that the flags name; ValueError in one line."""
    if args.from_gguf is not None:
        file = gguf_file.open_file(args.from_gguf)
        entries = gguf_file.entries_of(file)
        config = models.config_from_entries(file.path, entries, gguf_file.spelling_of(file))

        def opened(config, dtype=None):
            return hf.open_tensors(file.path, gguf_file.tensors_of(file), config, dtype)

        with tempfile.TemporaryDirectory() as folder:
            gguf_file.write_companions(file, pathlib.Path(folder))
            name, files = str(file.path), [args.from_gguf]
            yield Origin(epath.Path(folder), config, entries, name, files, opened)
        return
    folder = paths.absolute(args.from_hf)
    name = str(folder)
    if hub.is_name(args.from_hf) and not folder.exists():
        found = hub.download(args.from_hf)
        folder, name = epath.Path(found.folder), found.name
    if misplaced.are_adapters(folder):
        raise ValueError(f"--from_hf={misplaced.adapters_line(folder)}")
    config = models.config_from_hf(folder)
    entries = json_files.read_object(folder / "config.json")
    files = sorted([*folder.glob("config.json"), *folder.glob("*.safetensors*")])
    yield Origin(folder, config, entries, name, files, functools.partial(hf.open_folder, folder))


def to_orbax(origin: Origin, args: argparse.Namespace) -> None:
    """Writes the folder --to_orbax; ValueError in one line, before anything is written."""
    adapter, entries = args.adapter, origin.entries
    check_tokenizer(origin, args.a2d)
    params, pairs, config = with_adapter(origin, args)
    if args.a2d:
        config = mask_rows.with_mask(origin.folder, models.to_denoiser(config), args.mask_token)
        params = mask_rows.enlarge(params, config.vocab_size)
        entries = {
            key: value for key, value in entries.items() if key not in models.config_to_hf(config)
        }
    files = list(origin.files)
    if adapter is not None:
        files += [adapter / name for name in (adapters.CONFIG, adapters.WEIGHTS)]
    leaves = hf.paths_of(params).values()
    paths.need_space(args.to_orbax, sum(map(bytes_of, leaves)))
    with paths.new_folder(args.to_orbax) as partial, progress(leaves, files) as bar:
        manifest = {
            "family": config.family,
            "model": models.config_to_json(config),
            "source": origin.name,
            "adapter": None if adapter is None else str(adapter),
            "sha256": {file.name: digest(file, bar) for file in files},
            "dtype": sorted({leaf.dtype.name for leaf in leaves}),
            "tokenizer": copy_companions(origin.folder, partial),
            "config": entries,
            "license": model_card.license_of(origin.folder),
        }
        if args.a2d:
            mask_rows.add_to_tokenizer(partial, config.mask_id, args.mask_token)
        checkpoint.save_params(partial, watched(params, bar, args.dtype), manifest, pairs)


def with_adapter(
    origin: Origin, args: argparse.Namespace
) -> tuple[dict, dict | None, models.ModelConfig]:
    """(the LazyArrays, adapters that are kept beside them, the config with these).

    Raises:
      ValueError: weights or adapters that cannot be read, or not be kept; one line.
    """
    config = origin.config
    if args.adapter is None:
        return origin.open(config, args.dtype), None, config
    adapted, pairs = adapters.load(args.adapter, config)
    if args.lora != "keep":
        return adapters.summed(origin.open(config), pairs, adapted, args.dtype), None, config
    if "lm_head" in pairs:
        raise ValueError(
            f"{args.adapter}: --lora=keep, but the head has an adapter too, and none is trained "
            "there; leave --lora out, and they are summed into the weights"
        )
    return origin.open(config, args.dtype), jax.tree.map(jnp.asarray, pairs), adapted


def from_orbax(args: argparse.Namespace) -> None:
    """Writes the folder --to_hf; ValueError in one line, before anything is written."""
    source, destination, dtype = args.from_orbax, args.to_hf, args.dtype
    found = read_source(source)
    if found.adapters is None and args.lora == "keep":
        raise ValueError(f"{source}: --lora=keep, but there are no adapters; leave it out")
    if args.lora == "keep" and not found.plain:
        raise ValueError(
            f"{source}: --lora=keep, but its adapters stand over weights that were trained or "
            "changed before, which no folder that PEFT reads holds; leave it out"
        )
    card = card_of(found, args)
    if args.lora == "keep":
        kept = jax.tree.map(lambda x: x.astype(dtype or x.dtype), found.adapters)
        with paths.new_folder(destination) as partial:
            copy_companions(found.companions, partial)
            (partial / "README.md").write_text(card)
            adapters.save(partial, found.config, kept, found.base)
        return
    params = found.params
    if found.adapters is not None:
        params = adapters.summed(params, found.adapters, found.config, dtype)
    leaves = hf.paths_of(params).values()
    paths.need_space(destination, sum(bytes_of(leaf, dtype) for leaf in leaves))
    with paths.new_folder(destination) as partial, progress(leaves) as bar:
        copy_companions(found.companions, partial)
        (partial / "README.md").write_text(card)
        hf.save(
            partial,
            found.config,
            watched(params, bar, dtype),
            dtype=dtype,
            max_shard_bytes=int(args.max_shard_gb * 1e9),
            entries=found.entries,
        )


def card_of(found: Source, args: argparse.Namespace) -> str:
    """The model card of the folder --to_hf; ValueError in one line."""
    told = model_card.Card(
        args.push or args.to_hf.name,
        found.config,
        found.entries,
        found.base,
        found.license,
        adapters=args.lora == "keep",
        run=None if found.workdir is None else model_card.run_of(found.workdir),
    )
    if args.evaluation:
        evaluations = model_card.evaluations_of(args.evaluation, weights.hash_of(args.from_orbax))
        told = told._replace(evaluations=evaluations)
    return model_card.text_of(told)


def read_source(folder: epath.Path) -> Source:
    return read_converted(folder) if checkpoint.is_converted(folder) else read_workdir(folder)


def read_converted(folder: epath.Path) -> Source:
    """A folder that this script wrote."""
    config, manifest = weights.read_manifest_model(folder)
    params, pairs = checkpoint.lazy_params(folder / checkpoint.PARAMS), None
    if checkpoint.has_adapters(folder):
        pairs = arrays_of(checkpoint.lazy_params(folder / checkpoint.ADAPTERS))
    return Source(
        config,
        params,
        pairs,
        folder,
        json_files.entry(manifest, "config", "object", {}),
        json_files.entry(manifest, "source", "text", str(folder)),
        json_files.entry(manifest, "license", "object", {}),
        plain=manifest.get("adapter") is None or pairs is not None,
    )


def read_workdir(workdir: epath.Path) -> Source:
    """The newest checkpoint of a run: weights, or adapters over the weights that its config
    names."""
    settings = weights.settings_of(workdir)
    newest = checkpoint.latest_iteration(workdir)
    place = workdir / "checkpoints" / str(newest)
    checkpoint.format_of(checkpoint.read_host(place), str(place))
    trainable = checkpoint.lazy_params(place / "state", "state", "trainable")
    if settings.init_from:
        origin.check(workdir, settings, origin.base_of)
        base = read_source(paths.absolute(settings.init_from))
    else:
        model, _ = weights.read_model(settings, weights.kept_tokenizer(settings, workdir))
        tokenizer = weights.tokenizer_folder(settings, workdir)
        base = Source(model, {}, None, tokenizer, {}, "", {})
    learnt = models.with_blocks(base.config, settings.sampler.causal_block)
    base = base._replace(config=learnt, workdir=workdir)
    if not settings.lora_rank:
        return base._replace(params=trainable, plain=False)
    if not settings.init_from:
        raise ValueError(
            f"{workdir}: its adapters stand over random weights (no init_from), which no "
            "checkpoint holds"
        )
    adapted = dataclasses.replace(
        base.config,
        lora_rank=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_targets=settings.lora_targets,
    )
    return base._replace(config=adapted, adapters=arrays_of(trainable))


def arrays_of(tree: dict) -> dict:
    """The arrays that LazyArrays stand for."""
    return jax.tree.map(lambda leaf: np.asarray(leaf.read()), tree)


# ---------------------------------------------------------------- files


def check_tokenizer(origin: Origin, grows: bool) -> None:
    """Warns where there is none; ValueError where there is one that cannot be read, or that has
    more ids than the model has rows, which a vocabulary that `grows` will have."""
    if not any((origin.folder / name).exists() for name in TOKENIZERS):
        warnings.warn(
            f"{origin.name}: no tokenizer there, so none is copied; training will need one",
            stacklevel=2,
        )
        return
    config = origin.config
    mask_id = -1 if config.mask_id is None else config.mask_id
    ids = {"pad_id": config.pad_id, "mask_id": mask_id, "stop_ids": config.stop_ids}
    tokenizer = tokenizers.load(origin.folder, **ids)
    if not grows:
        tokenizers.check_rows(tokenizer, config.vocab_size, origin.name)


def copy_companions(source: epath.Path, destination: epath.Path) -> list[str]:
    """Copies tokenizer files and the like and returns their names."""
    files = [
        path
        for path in sorted(source.iterdir())
        if path.suffix in COMPANIONS and path.name not in NOT_COMPANIONS
    ]
    for path in files:
        path.copy(destination / path.name)
    return [path.name for path in files]


def digest(file: epath.Path, bar) -> str:
    sha = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 24):
            sha.update(block)
            bar.update(len(block))
    return sha.hexdigest()


def bytes_of(leaf, dtype: str | None = None) -> int:
    return int(np.prod(leaf.shape)) * np.dtype(dtype or leaf.dtype).itemsize


def progress(leaves: Collection, files: Sequence[epath.Path] = ()):
    """A bar over the bytes of the files to hash and of the arrays to write."""
    total = sum(map(bytes_of, leaves)) + sum(file.stat().length for file in files)
    return tqdm(total=total, unit="B", unit_scale=True, unit_divisor=1000, desc="converting")


def watched(params: dict, bar, dtype: str | None = None) -> dict:
    """The same lazy arrays, each moving the bar when it is read.

    ValueError names the first that does not fit the `dtype` it is to have.
    """

    def watch(name, leaf):
        def read(index=None):
            values = leaf.read(index)
            if dtype == "float16":  # the others reach as far as float32
                check_fits(name, values)
            bar.update(values.nbytes)
            return values

        return dataclasses.replace(leaf, read=read)

    return hf.nested({name: watch(name, leaf) for name, leaf in hf.paths_of(params).items()})


def check_fits(name: str, values: np.ndarray) -> None:
    """ValueError where float16 makes values of a tensor infinite."""
    with np.errstate(over="ignore"):
        broken = int(np.isinf(values.astype(np.float16, copy=False)).sum())
    if broken:
        raise ValueError(
            f"--dtype=float16: {name} has {broken} values that are infinite in it, beyond 65504: "
            "take bfloat16 or float32"
        )


def show_warning(message, *_) -> None:
    """A warning beside the progress bar, in one line."""
    tqdm.write(f"warning: {message}", file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    args = arguments(argv)
    warnings.showwarning = show_warning
    absl.logging.set_verbosity(absl.logging.ERROR)
    try:
        if args.push:
            hub.check_push(args.push)
        if args.to_orbax:
            with origin_of(args) as origin:
                to_orbax(origin, args)
        else:
            from_orbax(args)
        if args.push:
            print(hub.push(args.push, pathlib.Path(args.to_hf), args.private))
    except Exception as error:
        return told(error, args.debug)
    print(args.to_orbax or args.to_hf)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
