"""The model card of exported weights: README.md, whose front matter the Hugging Face hub reads.

It states what the files of a run say, and nothing else. Folders of the machine are left out.
"""

from collections.abc import Iterator, Mapping, Sequence
import json
import re
import shlex
from typing import Any, NamedTuple

from etils import epath

from gdsd_jax import checkpoint, hub, metrics, paths, settings
from gdsd_jax.evaluation import record, rescoring
from gdsd_jax.models import ModelConfig
from gdsd_jax.report.before_after import entries_of, headlines, score_of
from gdsd_jax.report.charts import points
from gdsd_jax.resume import Progress, from_host
from gdsd_jax.workdirs import BEST

FILE = "README.md"
LICENSE = ("license", "license_name", "license_link")  # in front matter of models on the hub
OURS = "gdsd_jax"
PATH = re.compile(r"(?<![\w.])(\w+:/)?/([^,='\"/]+/)+")  # the folders of an absolute path
MACHINES = ("--coordinator", "--num_processes", "--process_id")  # flags


class Run(NamedTuple):
    """A run, as its files tell of it.

    Attributes:
      settings: of config.json, under dotted names.
      command: that started it last; "" where unknown.
      progress: of the checkpoint whose weights are exported.
      rows: the eval lines of metrics.jsonl up to that checkpoint's round.
      score: the part of the grades that eval lines call mean_reward.
    """

    settings: Mapping[str, Any]
    command: str
    progress: Progress
    rows: Sequence[Mapping[str, Any]]
    score: str


class Evaluation(NamedTuple):
    """An evaluation of record, from a file of launch/eval.py."""

    name: str  # of the file
    these: bool  # whether it is of the weights that are exported
    content: Mapping[str, Any]


class Card(NamedTuple):
    """What a card tells.

    Attributes:
      name: of the model, USER/NAME or the folder's.
      model: its config.
      entries: of its config.json.
      base: what the weights were converted from: a path, or owner/name@hash on the hub; "" of a run
        from random weights.
      license: entries of the base's own front matter, of LICENSE.
      adapters: whether the folder holds adapters alone.
      run: None where the weights come of no run.
      evaluations: of record.
    """

    name: str
    model: ModelConfig
    entries: Mapping[str, Any]
    base: str
    license: Mapping[str, str]
    adapters: bool
    run: Run | None
    evaluations: Sequence[Evaluation] = ()


# ---------------------------------------------------------------- what is read


def run_of(workdir) -> Run:
    """What the files in a workdir say of its newest checkpoint; WORKDIR/best has the metrics of
    the folder above.

    Raises:
      ValueError: a file that cannot be read; one line.
    """
    workdir = paths.absolute(workdir)
    place = workdir / "checkpoints" / str(checkpoint.latest_iteration(workdir))
    progress, _ = from_host(checkpoint.read_host(place))
    lines = workdir / "metrics.jsonl"
    if workdir.name == BEST and not lines.exists():
        lines = workdir.parent / "metrics.jsonl"
    found = metrics.read_metrics(lines) if lines.exists() else []
    rows = [row for row in found if row["phase"] == "eval" and row["step"] <= progress.round]
    settings.read(workdir, of_model=True)  # tells what is wrong with the file
    entries = entries_of(workdir)
    chosen = settings.leaves_of(entries)
    return Run(chosen, str(chosen.get("command", "")), progress, rows, score_of(entries))


def evaluations_of(files: Sequence[str], weights_sha256: str) -> list[Evaluation]:
    """The evaluations in files of launch/eval.py.

    Raises:
      ValueError: a file that is none, or where all are of other weights; one line.
    """
    found = []
    for file in files:
        content = rescoring.read_own(file)
        with rescoring.whole(file):
            these = content["manifest"].get("weights_sha256") == weights_sha256
            found.append(Evaluation(epath.Path(file).name, these, content))
            evaluation_part(found[-1])  # finds what is missing
    if found and not any(one.these for one in found):
        raise ValueError(
            f"--evaluation={files[0]}: it is of other weights than these: evaluate these with "
            "launch/eval.py, and give that file too"
        )
    return found


def license_of(folder: epath.Path) -> dict[str, str]:
    """The entries of LICENSE in the front matter of a folder's README.md; none where there is
    none."""
    file = folder / FILE
    if not file.exists():
        return {}
    text = file.read_bytes().decode("utf-8", errors="replace")
    block = re.match(r"\ufeff?---\s*\n(.*?)\n---\s*(\n|$)", text, re.DOTALL)
    found = re.findall(r"^(\w+):[ \t]*(\S.*?)[ \t\r]*$", block[1], re.MULTILINE) if block else []
    return {key: value.strip("\"'") for key, value in found if key in LICENSE}


# ---------------------------------------------------------------- what is written


def text_of(card: Card) -> str:
    """The card, as README.md holds it."""
    parts = [
        f"# {card.name}",
        about(card),
        *run_parts(card.run),
        *map(evaluation_part, card.evaluations),
        use(card),
        f"## Versions\n\nExported with {versions_line(record.versions())}.",
    ]
    lines = [f"{key}: {json.dumps(value)}" for key, value in front_matter(card).items()]
    return "\n".join(["---", *lines, "---", ""]) + "\n" + "\n\n".join(parts) + "\n"


def front_matter(card: Card) -> dict[str, Any]:
    """The entries that the hub reads. Each is written as JSON, which is YAML too."""
    base, run = hub.split(card.base).name, card.run
    tags = [OURS, "autoregressive" if card.model.autoregressive else "diffusion-language-model"]
    if run is not None:
        tags += [shortened(str(run.settings.get(key))) for key in ("objective", "task")]
    found = dict(card.license)
    if base:
        found["base_model"] = base
    if base and (run is not None or card.adapters):
        found["base_model_relation"] = "adapter" if card.adapters else "finetune"
    found |= {
        "library_name": library_of(card),
        "pipeline_tag": "text-generation",
        "tags": list(dict.fromkeys(tags)),
    }
    results = [] if run is None else results_of(run)
    if results:
        task = shortened(str(run.settings["task"]))
        data = {"name": f"{task}, held-out problems", "type": task}
        told = {"task": {"type": "text-generation"}, "dataset": data, "metrics": results}
        found["model-index"] = [{"name": card.name, "results": [told]}]
    return found


def library_of(card: Card) -> str:
    """The library that loads the folder."""
    if card.adapters:
        return "peft"
    if card.model.family.startswith("a2d-"):
        return OURS
    return "transformers" if card.model.autoregressive or "auto_map" in card.entries else OURS


def results_of(run: Run) -> list[dict[str, Any]]:
    """The last evaluation's shares, 0..1, for the hub."""
    names = {"pass_at_1": "solved, temperature 0"}
    if run.score != "reward":
        names["mean_reward"] = f"{run.score}, temperature 1"
    last = {key: points(run.rows, "eval", key)[1][-1:] for key in names}
    return [{"type": key, "name": names[key], "value": last[key][0]} for key in names if last[key]]


def about(card: Card) -> str:
    """What the weights are, and where they come from."""
    kind = "An autoregressive" if card.model.autoregressive else "A diffusion"
    what = f"{kind} language model of the family {card.model.family}"
    if card.adapters:
        what = f"LoRA adapters of rank {card.model.lora_rank} for a model of {card.model.family}"
    base = shortened(card.base)
    if card.run is None:
        return f"{what}, converted from {base or 'random weights'}: no run has changed it."
    chosen, progress = card.run.settings, card.run.progress
    objective, task = (shortened(str(chosen.get(key))) for key in ("objective", "task"))
    return (
        f"{what}, trained from {base or 'random weights'} on the task {task}: {progress.step} "
        f"supervised steps and {progress.round} round{'s' * (progress.round != 1)} of {objective}."
    )


def run_parts(run: Run | None) -> Iterator[str]:
    """The sections about a run: its figures, its command, its settings."""
    if run is None:
        return
    yield f"## Held-out figures\n\n{figures(run)}"
    command = f"```sh\n{public_command(run.command)}\n```\n\n" if run.command else ""
    lines = [
        f"{key}={shortened(str(value))}"
        for key, value in run.settings.items()
        if key not in ("greeting", *settings.NO_SETTINGS)
    ]
    yield f"## How it was trained\n\n{command}All settings:\n\n```\n" + "\n".join(lines) + "\n```"


def figures(run: Run) -> str:
    """What the run's own evaluations say, before and after."""
    steps, counts = points(run.rows, "eval", "problems")
    if not steps:
        return "The run has made no evaluation of these weights."
    means = f"Means over {counts[-1]:g} held-out problems"
    run_is = (
        f"the weights are of round {run.progress.round}, of one run with seed "
        f"{run.settings.get('seed')}. The run keeps no intervals."
    )
    told = headlines(run.rows, run.score)
    if len(steps) == 1:
        rows = ["| | value |", "| --- | --- |"]
        rows += [f"| {name} | {after} |" for name, _, after, _ in told]
        said = f"{means} at round {steps[0]:g}; {run_is}"
    else:
        rows = ["| | before | after | change |", "| --- | --- | --- | --- |"]
        rows += [f"| {' | '.join(cells)} |" for cells in told]
        said = f"{means}, before (round {steps[0]:g}) and after (round {steps[-1]:g}); {run_is}"
    return "\n".join([said, "", *rows])


def evaluation_part(one: Evaluation) -> str:
    """The section about an evaluation of record."""
    manifest, rows = one.content["manifest"], list(interval_rows(one.content))
    whose = "these weights" if one.these else "other weights, to compare with"
    level, made = manifest["intervals"]["level"], versions_line(manifest["packages"])
    return (
        f"## Evaluation of {whose}\n\n`{one.name}`, {one.content['metrics']['problems']} problems, "
        f"weights {str(manifest.get('weights_sha256'))[:12]}, with {made}.\n\n"
        f"| | value | {level:.0%} interval |\n| --- | --- | --- |\n" + "\n".join(rows)
    )


def interval_rows(content: Mapping[str, Any]) -> Iterator[str]:
    """Rows of the table of an evaluation's main numbers."""
    numbers, sure, score = content["metrics"], content["intervals"], content["manifest"]["score"]
    names = {
        "pass_at_1": "solved, temperature 0",
        "accuracy": "accuracy",
        "mean_reward": f"{score}, sampled",
        "reward": "reward, sampled",
    }
    for key, name in names.items():
        if numbers.get(key) is not None and not (key == "reward" and score == "reward"):
            span = sure.get(key)
            between = "none" if not span else f"{span[0]:.3f} to {span[1]:.3f}"
            yield f"| {name} | {numbers[key]:.3f} | {between} |"


def use(card: Card) -> str:
    """How the folder is loaded."""
    short = card.name.rpartition("/")[2]
    convert = f"gdsd convert --from_hf={card.name} --to_orbax=models/{short}"
    if card.adapters:
        base = hub.split(card.base).name or "BASE"
        grows = " --a2d" if card.model.family.startswith("a2d-") else ""  # the base is none yet
        convert = (
            f"hf download {card.name} --local-dir=adapters/{short}\n"
            f"gdsd convert --from_hf={base} --adapter=adapters/{short}{grows} "
            f"--to_orbax=models/{short}"
        )
    return (
        f'## Use\n\n```sh\npip install "{OURS}[hub]"\n{convert}\n'
        f'gdsd generate --checkpoint=models/{short} --prompt="..." --show\n```'
    )


def versions_line(packages: Mapping[str, str | None]) -> str:
    """The versions of the packages that are there."""
    return ", ".join(f"{name} {found}" for name, found in packages.items() if found)


def public_command(command: str) -> str:
    """A command without folders, and without what names machines."""
    kept, words = [], iter(shlex.split(command))
    for word in words:
        if word.partition("=")[0] not in MACHINES:
            kept.append(shortened(word))
        elif "=" not in word:
            next(words, None)  # its value
    return shlex.join(kept)


def shortened(text: str) -> str:
    """A value, or one word of a command, whose absolute paths have lost their folders, which are
    nobody's business."""
    return PATH.sub("", text)
