"""Measures how fast this machine samples, updates and runs programs.

  python launch/bench.py [--json=FILE] [--size=tiny] [--dtype=bfloat16] [--parts=rollout,samplers]
  ... --parts=round [--settings=score_masks=shared,sampler.cache=prefix]
  ... --parts=round --coordinator=HOST:PORT --num_processes=N --process_id=I

It times a rollout, the samplers' caches and an update of one denoiser, and programs in the sandbox,
and tells peak memory. Each timing is a median and stands beside a square matrix product, timed
right before and after it, because a machine's pace drifts. MFU is the operations needed per second
over the product's rate; of a round it is those computed, recomputation included, without the
probe's and the drift's. A round of GDSD, 8 updates on 4 mask pairs each of 2 answers, takes minutes
and is left out unless it is asked for; it tells which share is whose. So is attention: the time of
cuDNN's and XLA's in bfloat16, and how far both are from float32.
On one GPU of 80 GB or more: --size=llada_8b --dtype=bfloat16 --parts=rollout,samplers. These are
random weights of 16 GB; an update of all of them takes 192 GB, more than one GPU has.

Exit codes: 0 done; 2 bad arguments; 1 a fault.
"""

import argparse
import functools
import json
import pathlib
import resource
import statistics
import sys
import time
from typing import NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from gdsd_jax import interrupts

if __name__ == "__main__":
    interrupts.watch()  # the imports below take their time

from gdsd_jax.cli import Parser, output_path, run
from gdsd_jax.mistakes import Gathered, prefixed


class Size(NamedTuple):
    """What is timed; of a rollout its last two blocks, what precedes them counts as prompt."""

    d_model: int
    layers: int
    heads: int
    d_ff: int
    vocab: int
    prompt: int  # tokens
    completion: int  # tokens
    rows: int
    block: int  # tokens
    product: int  # side of the matrix product
    programs: int
    sampler_prompt: int  # tokens, of the samplers' table
    sampler_completion: int  # tokens
    sampler_steps: int


SIZES = {
    "standard": Size(512, 8, 8, 1408, 32_000, 128, 128, 8, 32, 2048, 400, 400, 256, 128),
    "llada_8b": Size(4096, 32, 32, 12_288, 126_464, 128, 128, 8, 32, 8192, 400, 400, 256, 128),
    "tiny": Size(32, 2, 1, 64, 128, 8, 16, 4, 4, 128, 8, 8, 16, 8),
}
PARTS = ("rollout", "update", "samplers", "programs")
ASKED = ("round", "attention")  # parts that are left out unless they are asked for
ROUND = {"prompts_per_round": 1, "group_size": 2, "inner_iterations": 8, "mask_draws": 4}
ROUND["gdsd.beta"] = 0.05  # the recipe's; lengths and types come with the size
ROUND["probe_rows"] = 0  # which are 8 of the recipe's 480 rows, and would be all of these


def arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--json", help="file for the numbers")
    parser.add_argument("--size", choices=SIZES, default="standard")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument(
        "--parts",
        default=",".join(PARTS),
        help="what is measured, of %(default)s, round and attention",
    )
    parser.add_argument("--settings", default="", help="KEY=VALUE,... of the round")
    parser.add_hosts()
    return parser.checked(check_flags)


def check_flags(args: argparse.Namespace) -> None:
    """Mistakes of the flags."""
    wrong = Gathered()
    for part in args.parts.split(","):
        if part not in (*PARTS, *ASKED):
            known = ", ".join((*PARTS, *ASKED))
            wrong.lines.append(f"--parts={args.parts}: {part!r} is none of {known}")
    if args.settings and "round" not in args.parts.split(","):
        wrong.lines.append("--settings are those of a round: add --parts=round")
    if args.coordinator and args.parts != "round":
        wrong.lines.append("several processes share a round alone: add --parts=round")
    with wrong.check():
        output_path("--json", args.json)
    wrong.end()


if __name__ == "__main__":
    arguments()  # tells what is wrong before the imports below, which take seconds

import jax
import jax.numpy as jnp
import numpy as np

from gdsd_jax import experiment, hosts, models, objectives, progress, sampling, scoring, settings
from gdsd_jax.cli import fault, told
from gdsd_jax.hosts import Hosts
from gdsd_jax.models import flops
from gdsd_jax.optimizer import OptimizerConfig, init_state, make_optimizer, make_update
from gdsd_jax.rates import attention_rates, copy_rate, product_rate, timed
from gdsd_jax.round_times import check_timed, round_times
from gdsd_jax.sandbox import Program, SandboxError, open_sandbox
from gdsd_jax.types import Batch, Prompts


def beside_product(measure, size: Size, dtype: str) -> dict:
    """`measure(size, dtype) -> (seconds, operations, extra)`, with the product's rate before and
    after it."""
    before = product_rate(size.product, dtype)
    seconds, operations, extra = measure(size, dtype)
    rate = statistics.mean([before, product_rate(size.product, dtype)])
    found = {"seconds": seconds, "gflops": operations / 1e9, "mfu": operations / seconds / rate}
    return found | {"product_gflops_per_s": rate / 1e9} | extra


def config_of(size: Size, dtype: str) -> models.ModelConfig:
    """The denoiser's shape."""
    return models.ModelConfig(
        family="llada",
        vocab_size=size.vocab,
        d_model=size.d_model,
        layers=size.layers,
        heads=size.heads,
        kv_heads=size.heads,
        head_dim=size.d_model // size.heads,
        d_ff=size.d_ff,
        mask_id=1,
        pad_id=0,
        stop_ids=(),
        dtype=dtype,
        remat="dots",
    )


def denoiser_of(size: Size, dtype: str):
    """The denoiser, with the attention that trains on such a device, and random weights."""
    config = config_of(size, dtype)
    denoiser = models.make_denoiser(config, models.find_kernel("auto", config, jax.devices()[0]))

    def init(rng):
        return jax.tree.map(lambda x: x.astype(dtype), models.init_params(config, rng))

    return denoiser, jax.jit(init)(jax.random.key(0))


def tokens_of(size: Size, columns: int) -> jax.Array:
    return jax.random.randint(jax.random.key(1), (size.rows, columns), 2, size.vocab)


def prompts_of(size: Size, columns: int) -> Prompts:
    """Prompts of random tokens, to be answered at temperature 1."""
    tokens_BxP = tokens_of(size, columns)
    valid_BxP = jnp.ones(tokens_BxP.shape, bool)
    return Prompts(tokens_BxP, valid_BxP, temperature_B=jnp.ones(size.rows))


def rollout(size: Size, dtype: str) -> tuple[float, int, dict]:
    """Two blocks, one position of each row a pass, temperature 1."""
    denoiser, params = denoiser_of(size, dtype)
    columns = size.prompt + size.completion
    passes = 2 * size.block
    config = sampling.SamplerConfig(gen_length=passes, block_length=size.block, steps=passes)
    rollout_fn = sampling.make_rollout_fn(denoiser, config)
    rng_B = jax.random.split(jax.random.key(2), size.rows)
    seconds = timed(rollout_fn, params, prompts_of(size, columns - passes), rng_B, repeats=1)
    operations = flops.rollout_flops(denoiser.config, size.rows, columns, size.block, passes=passes)
    return seconds, operations, {"tokens_per_s": size.rows * passes / seconds}


SAMPLERS = {  # the samplers' table: settings, and which row they are compared with
    "exact": (dict(kind="llada", cache="none"), "exact"),
    "prefix": (dict(kind="llada", cache="prefix"), "exact"),
    "dual": (dict(kind="llada", cache="dual"), "exact"),
    # block-causal, every pass a whole forward
    "block, exact": (dict(kind="block", cache="none"), "block, exact"),
    "block": (dict(kind="block", cache="block"), "block, exact"),
}


def sampler_flops(config, size: Size, cache: str, block: int, passes: int) -> int:
    """Operations that `passes` passes in one block need.

    A whole forward has all scores, also those that a block-causal mask throws away. Beside a cache
    only keys that may be attended to count.
    """
    start = size.sampler_prompt + block * size.block
    columns = size.sampler_prompt + size.sampler_completion

    def count(queries, keys):
        return flops.features_flops(config, size.rows, queries, keys)

    whole = count(columns, columns)
    in_block = count(size.block, start + size.block)
    first, later = {
        "none": (whole, whole),
        "prefix": (whole, count(columns - start, columns)),
        "dual": (whole, count(size.block, columns)),
        "block": (count(size.block, start) + in_block, in_block),
    }[cache]
    logits = flops.unembed_flops(config, size.rows * size.block)
    return first + (passes - 1) * later + passes * logits


def block_seconds(denoiser, params, config, size: Size, block: int) -> float:
    """Seconds of one whole block at temperature 1, those before it filled with random tokens."""
    begin, advance, _, _ = sampling.make_passes(denoiser, config)
    prompts = sampling.with_defaults(prompts_of(size, size.sampler_prompt), config.gen_length)
    start = size.sampler_prompt
    done = block * size.block
    rng_B = jax.random.split(jax.random.key(2), size.rows)

    @jax.jit
    def at_block(params):
        state = begin(params, prompts)
        tokens_BxL = state.tokens_BxL.at[:, start : start + done].set(tokens_of(size, done))
        masked_BxG = state.masked_BxG.at[:, :done].set(False)
        return state.replace(tokens_BxL=tokens_BxL, masked_BxG=masked_BxG, block=jnp.int32(block))

    # Whole forwards take long enough. Others are repeated in one program, because a rollout gets
    # its memory once for all blocks.
    repeats = 1 if config.cache == "none" else 8

    def run(params, state):
        def again(_, before):
            here = state.replace(cache=before.cache)
            return jax.lax.while_loop(
                lambda now: now.block == block,
                lambda now: advance(params, prompts, rng_B, now),
                here,
            )

        return jax.lax.fori_loop(0, repeats, again, state)

    state = at_block(params)
    compiled = jax.jit(run, donate_argnums=1).lower(params, state).compile()
    jax.block_until_ready(state)
    began = time.perf_counter()
    jax.block_until_ready(compiled(params, state))
    return (time.perf_counter() - began) / repeats


def samplers(size: Size, dtype: str) -> dict:
    """A rollout under each cache, estimated from its first and its last block.

    Each row has seconds, operations, and both against the uncached sampler's:
      ceiling: the uncached sampler's operations over this one's.
      reached: this one's MFU over the uncached sampler's. Each rate stands beside its own product,
        because the machine's pace drifts.
      speed_up: ceiling times reached.
      bandwidth: the rate of reading all weights once a pass, over that of a copy.
    Those of block-causal models write completions twice as long.
    """
    denoiser, params = denoiser_of(size, dtype)
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    copying = copy_rate(dtype)
    long = size._replace(
        sampler_completion=2 * size.sampler_completion, sampler_steps=2 * size.sampler_steps
    )
    found = {}
    for name, (changes, baseline) in SAMPLERS.items():
        own = long if changes["kind"] == "block" else size
        with progress.phase(f"sampler {name}"):
            row = measure_sampler(denoiser, params, changes, own, dtype)
        found[name] = row
        row["bandwidth"] = weights * own.sampler_steps / row["seconds"] / copying
        row["ceiling"] = found[baseline]["gflops"] / row["gflops"]
        row["reached"] = row["mfu"] / found[baseline]["mfu"]
        row["speed_up"] = row["ceiling"] * row["reached"]
        progress.say(
            f"sampler {name:12} {row['tokens_per_s']:10,.1f} tokens/s, "
            f"{row['mfu']:.0%} of the product's rate, {row['bandwidth']:.0%} of a copy's, "
            f"{row['speed_up']:.2f} x {baseline} of {row['ceiling']:.2f} x possible "
            f"({row['reached']:.0%})",
        )
    return found


def measure_sampler(denoiser, params, changes: dict, size: Size, dtype: str) -> dict:
    """Seconds, tokens a second, operations and MFU of one sampler's rollout."""
    length, steps = size.sampler_completion, size.sampler_steps
    config = sampling.SamplerConfig(
        gen_length=length, block_length=size.block, steps=steps, **changes
    )

    def measure(size: Size, _) -> tuple[float, float, dict]:
        ends, per_block = (0, config.blocks - 1), config.steps_per_block
        found = [block_seconds(denoiser, params, config, size, end) for end in ends]
        counts = [
            sampler_flops(denoiser.config, size, config.cache, end, per_block) for end in ends
        ]
        seconds, operations = (config.blocks * statistics.mean(x) for x in (found, counts))
        return seconds, operations, {"tokens_per_s": size.rows * length / seconds}

    return beside_product(measure, size, dtype)


def update(size: Size, dtype: str) -> tuple[float, int, dict]:
    """One GDSD optimizer step on one complementary pair of masked views a row, of all weights."""
    denoiser, params = denoiser_of(size, dtype)
    columns = size.prompt + size.completion
    length_B = jnp.full(size.rows, size.completion)
    batch = Batch(
        tokens_of(size, columns),
        jnp.ones((size.rows, columns), bool),
        length_B,
        scoring.draw_masks(jax.random.key(3), 1, size.prompt, columns, length_B),
        advantages_B=jnp.linspace(-1.0, 1.0, size.rows),
        prompt_len=size.prompt,
    )
    optimizer = make_optimizer(OptimizerConfig())
    loss_fn = objectives.make_loss_fn("gdsd", denoiser, objectives.GdsdConfig())
    step = jax.jit(make_update(loss_fn, optimizer))
    state = jax.jit(lambda weights: init_state(weights, optimizer))(params)
    arguments = (state, {}, jax.tree.map(lambda x: x[None], batch))
    seconds = timed(step, *arguments, repeats=5)
    memory = step.lower(*arguments).compile().memory_analysis()
    extra = {"temporary_mib": memory.temp_size_in_bytes / 2**20} if memory else {}
    return seconds, flops.update_flops(denoiser.config, size.rows, columns, size.completion), extra


def small_programs(count: int) -> list[Program]:
    """Correct programs of four tests."""
    found = []
    for n in range(count):
        tests = tuple(f"assert f({x}) == {x + n}" for x in range(4))
        found.append(Program(f"def f(x):\n    return x + {n}", tests))
    return found


def programs(count: int) -> dict:
    """Small correct programs through the sandbox."""
    batch = small_programs(count)
    try:
        with open_sandbox() as sandbox:
            sandbox.run(batch[:8])  # the workers come up
            began = time.perf_counter()
            verdicts = sandbox.run(batch)
            seconds = time.perf_counter() - began
    except SandboxError as error:
        return {"error": str(error)}
    passed = sum(all(verdict.passed) for verdict in verdicts)
    return {"programs_per_s": count / seconds, "passed": passed, "sandbox": sandbox.mode}


def settings_of(size: Size, dtype: str, text: str) -> settings.Settings:
    """The round's settings; `text` is the value of --settings."""
    values = ROUND | {"prompt_length": size.sampler_prompt, "dtype": dtype, "param_dtype": dtype}
    values |= {"sampler.gen_length": size.sampler_completion, "sampler.block_length": size.block}
    values["sampler.steps"] = size.sampler_completion
    entries = [entry.partition("=") for entry in settings.entries_of(text)]
    given = {key: settings.Text(value) for key, _, value in entries}
    if given.get("objective", "gdsd") != "gdsd":
        del values["gdsd.beta"]  # which no other objective has
    with prefixed("--settings: "):
        chosen = settings.build(values | given)
        check_timed(chosen, given)
    return chosen


def whole_round(
    chosen: settings.Settings, here: Hosts, size: Size, dtype: str
) -> tuple[float, float, dict]:
    """A round's seconds, operations of one device, and shares; every process runs its share of the
    programs."""
    batch = small_programs(chosen.rows)[here.share(chosen.rows)]
    number_B = np.arange(chosen.rows)
    with open_sandbox() as sandbox:
        sandbox.run(batch)  # the workers come up

        def grade(rollout) -> np.ndarray:
            passed = [all(verdict.passed) for verdict in sandbox.run(batch)]
            passed_B = here.merge({"passed": np.array(passed, bool)}, chosen.rows)["passed"]
            return np.float32(passed_B & (number_B % 2 == 0))  # groups have a spread

        found = round_times(config_of(size, dtype), chosen, grade)
    seconds = sum(found.seconds.values())
    extra = {
        "shares": {name: part / seconds for name, part in found.seconds.items()},
        "scoring": found.scoring / seconds,
        "idle": found.idle / seconds,
        "drift": found.drift,
        "gflops_of": {name: count / 1e9 for name, count in found.operations.items()},
    }
    return seconds, sum(found.operations.values()) / jax.device_count(), extra


def attention(size: Size) -> dict:
    """cuDNN's and XLA's, for rows of the samplers' table."""
    config, columns = config_of(size, "bfloat16"), size.sampler_prompt + size.sampler_completion
    found = attention_rates(config, size.rows, columns, size.block)
    for name, masks in found.items():
        said = masks.get("left_out") or "; ".join(
            f"{mask} {one['ms']:.2f} ms, {one['error']:.1%} off" for mask, one in masks.items()
        )
        progress.say(f"attention {name}: {said}")
    return found


def peak_memory() -> dict:
    """Largest resident size of this process, and of the accelerator where it tells."""
    found = {"host_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        found["device_peak_mib"] = stats["peak_bytes_in_use"] / 2**20
    return found


def measure_all(
    size: Size, dtype: str, parts: list[str], chosen: settings.Settings, here: Hosts
) -> dict:
    """The numbers of `parts` and the peak memory; each is printed as soon as it is known."""
    results = {}
    for part in (rollout, update):
        name = part.__name__
        if name not in parts:
            continue
        with progress.phase(name):
            found = beside_product(part, size, dtype)
        results[name] = found
        rate = f", {found['tokens_per_s']:,.1f} tokens/s" if "tokens_per_s" in found else ""
        progress.say(
            f"{name:8} {found['seconds']:8.2f} s{rate}, {found['mfu']:.0%} of a {size.product} x "
            f"{size.product} product's {found['product_gflops_per_s']:,.0f} GFLOP/s",
        )
    if "samplers" in parts:
        results["samplers"] = samplers(size, dtype)
    if "programs" in parts:
        results["rewards"] = programs(size.programs)
        told = ", ".join(f"{key} {value}" for key, value in results["rewards"].items())
        progress.say(f"programs {told}")
    if "round" in parts:
        with progress.phase("round"):
            found = beside_product(functools.partial(whole_round, chosen, here), size, dtype)
        results["round"] = found | {"settings": settings.to_json(chosen)}
        shares = ", ".join(f"{name} {share:.0%}" for name, share in found["shares"].items())
        busy = f"scores for {found['scoring']:.0%}, is idle for {found['idle']:.0%}"
        rate = f"{found['mfu']:.0%} of a product's rate"
        progress.say(f"round    {found['seconds']:8.2f} s, {rate}: {shares}; the device {busy}")
    if "attention" in parts:
        results["attention"] = attention(size)
    memory = peak_memory()
    results["memory"] = memory
    progress.say(f"memory   {', '.join(f'{key} {value:,.0f}' for key, value in memory.items())}")
    return results


def main() -> int:
    args = arguments()
    try:
        chosen = settings_of(SIZES[args.size], args.dtype, args.settings)
        here = hosts.start(args.coordinator, args.num_processes, args.process_id)
        if "round" in args.parts.split(","):
            experiment.check_settings(chosen, experiment.make_mesh(chosen))
    except Exception as error:
        return told(error, args.debug)
    return hosts.run_together(here, lambda: measure(args, chosen, here), fault)


def measure(args: argparse.Namespace, chosen: settings.Settings, here: Hosts) -> int:
    """Measures what is asked for; the exit code."""
    size = SIZES[args.size]
    device = jax.devices()[0]
    progress.say(f"{device.device_kind}, jax {jax.__version__}, {args.dtype}, {args.size}: {size}")
    results = {"device": device.device_kind, "devices": jax.device_count(), "jax": jax.__version__}
    results |= {"dtype": args.dtype, "size": size._asdict()}
    with progress.shown():
        results |= measure_all(size, args.dtype, args.parts.split(","), chosen, here)
    if args.json and here.first:
        output_path("--json", args.json).write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
