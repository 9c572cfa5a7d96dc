"""What a run is made of, put together from its settings; whatever is wrong is found here, before
anything is compiled or written."""

from collections.abc import Callable, Sequence
import contextlib
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdsd_jax import (
    data,
    extensions,
    meanings,
    models,
    objectives,
    paths,
    report,
    sampling,
    sharding,
    tasks,
    tokenizers,
    weights,
)
from gdsd_jax.hosts import Hosts
from gdsd_jax.mistakes import Gathered
from gdsd_jax.models import ModelConfig
from gdsd_jax.progress import phase
from gdsd_jax.sandbox import SandboxError
from gdsd_jax.settings import Settings
from gdsd_jax.tasks import Record, RewardConfig, Task, TaskSettings
from gdsd_jax.tokenizers import Tokenizer
from gdsd_jax.types import Batch, Denoiser


class Experiment(NamedTuple):
    """The fixed parts of a run."""

    settings: Settings
    mesh: jax.sharding.Mesh
    task: Task
    parts: tuple[str, ...]  # names of its grades' parts
    tokenizer: Tokenizer
    sft_problems: data.Problems  # of the supervised phase
    train: data.Problems  # of the rounds
    heldout: data.Problems
    denoiser: Denoiser
    teacher: Denoiser | None  # of objectives that distil one
    hosts: Hosts


def prepare(
    settings: Settings,
    hosts: Hosts | None = None,
    folder=None,
    say: Callable[[str], None] = print,
    workdir=None,
) -> Experiment:
    """Reads data and tokenizer, lays out the mesh, opens the task.

    Args:
      settings: of the run.
      hosts: the processes that run together; None = this one alone.
      folder: whose model is evaluated, a converted one or a workdir; None = the settings' own.
      say: gets the task's notes, a line about prompts that are too long, and about what is held
        out.
      workdir: of the run, where one that goes on has kept its tokenizer; None = a fresh run.

    Raises:
      ValueError: anything that is wrong with the settings or their files; a line for each that
        names it and the mend.
    """
    hosts = Hosts() if hosts is None else hosts
    say = say if hosts.first else ignore
    model_settings = settings if folder is None else weights.settings_of(folder)
    mesh = check_before_data(settings, model_settings, folder is None)
    if folder is None and (workdir is None or weights.latest_iteration(workdir) is None):
        weights.check_teacher(settings)  # of a run that goes on the teacher is kept
    from_nothing = model_settings.init_from is None
    with phase("reading the problems"):
        task = hosts.one_by_one(lambda: make_task(settings, from_nothing))
    try:
        if folder is None:
            check_kept(settings, task)
        with phase("reading the tokenizer"):
            model, tokenizer = model_of(settings, task, folder, workdir)
        check(settings, mesh, model, task)
        if folder is None and model.mask_id is None:
            raise ValueError(
                f"init_from={settings.init_from}: an autoregressive model without a mask cannot be "
                "trained here: convert it with --a2d"
            )
        return assemble(settings, hosts, mesh, task, model, tokenizer, folder is None, say)
    except BaseException:
        task.close()
        raise


def assemble(
    settings: Settings,
    hosts: Hosts,
    mesh: jax.sharding.Mesh,
    task: Task,
    model: ModelConfig,
    tokenizer: Tokenizer,
    trains: bool,
    say: Callable[[str], None],
) -> Experiment:
    """What `prepare` returns, of parts that have been checked."""
    for note in task.notes:
        say(note)
    with phase("encoding the problems"):
        train, heldout = problems_of(settings, task, tokenizer, say)
    sft_problems, train = data.split_sft(train, settings.sft.steps, settings.sft.share)
    if trains and settings.sft.steps:
        longest = settings.sampler.gen_length
        sft_problems = data.fitting(task, sft_problems, tokenizer, longest, say)
        first = sft_problems.records[sft_problems.index[0]]
        data.answer_of(task, first, "0 0")  # whether it can be made wrong as sft.noise asks
        if settings.sft.heldout_problems:  # whether there is one
            data.fitting(task, heldout, tokenizer, longest, most=1)
    widths = data.widths_of(train, settings.prompts_per_round, settings.prompt_multiple)
    train, heldout = (dataclasses.replace(one, widths=widths) for one in (train, heldout))
    denoiser, teacher = weights.make_denoisers(settings, model, mesh)
    return Experiment(
        settings=settings,
        mesh=mesh,
        task=task,
        parts=tasks.parts_of(task),
        tokenizer=tokenizer,
        sft_problems=sft_problems,
        train=train,
        heldout=heldout,
        denoiser=denoiser,
        teacher=teacher,
        hosts=hosts,
    )


def check_before_data(
    settings: Settings, model_settings: Settings, trains: bool
) -> jax.sharding.Mesh:
    """Everything that needs neither data nor weights; returns the mesh.

    Args:
      settings: of the run.
      model_settings: those of its model's, which are its own where it trains.
      trains: whether the settings say where it starts.

    Raises:
      mistakes.Mistakes: each of what is wrong.
    """
    wrong, mesh = Gathered(), None
    with wrong.check():
        if trains and settings.require_init and settings.init_from is None:
            raise ValueError(
                f"{settings.name} starts from released weights: convert them with `python "
                "launch/convert.py --from_hf=DIR --to_orbax=DIR` and add init_from=DIR to the "
                "config"
            )
        if trains:
            check_start(settings)
    with wrong.check():
        mesh = make_mesh(settings)
    with wrong.check():
        check_settings(settings, mesh)
    if trains:
        with wrong.check():
            check_kept_early(settings)
    if wrong.lines and tasks.reads_files(settings.task, settings.data_file, settings.heldout_file):
        with wrong.check():  # what is wrong with those is told too, but nothing is built
            make_task(settings, model_settings.init_from is None).close()
    wrong.end()
    return mesh


def check_start(settings: Settings) -> None:
    """ValueError where there is no model to start from; no data has been built then."""
    if settings.init_from is None:
        weights.check_named(settings)
        return
    try:
        weights.settings_of(settings.init_from)
    except ValueError as error:
        raise ValueError(f"init_from={error}") from None


def check_kept_early(settings: Settings) -> None:
    """`check_kept` before the task is made, whose problems may take minutes: a part of the grades
    is looked for where it is a task of ours."""
    if settings.keep_best is None:
        return
    if meanings.is_reserved(settings.keep_best.removeprefix("-")):
        check_kept(settings, None)
    elif not extensions.is_file(settings.task):
        with contextlib.closing(make_task(settings, False, only_grades=True)) as task:
            check_kept(settings, task)


def check_kept(settings: Settings, task: Task | None) -> None:
    """ValueError where `keep_best` is no number that evaluations will tell; None: of a task whose
    parts are not known yet."""
    if settings.keep_best is None:
        return
    parts = () if task is None else tasks.parts_of(task)
    is_graded = task is None or task.grade is not None
    taught, threshold = objectives.find(settings.objective).teacher, settings.threshold
    told = meanings.of_evaluations(parts, is_graded, taught, threshold is not None)
    if settings.keep_best.removeprefix("-") not in told:
        others = " and the parts of the task's grades" if task is None and is_graded else ""
        raise ValueError(
            f"keep_best={settings.keep_best}: evaluations of this run tell {', '.join(told)}"
            f"{others}: choose one, with a minus in front where less is better"
        )


def ignore(line: str) -> None:
    """Says nothing."""


def model_of(
    settings: Settings, task: Task | None, folder=None, workdir=None
) -> tuple[ModelConfig, Tokenizer]:
    """Model and tokenizer of the settings, or of a folder.

    A run from nothing that goes on takes the tokenizer that its workdir has kept, one that starts
    from another run the tokenizer of that: its weights were trained with it, whatever the task has
    become. What a run has kept that ended before its first checkpoint is nobody's.
    """
    if folder is not None:
        thinks = settings.enable_thinking  # of what is asked, not of how the weights came about
        theirs = dataclasses.replace(weights.settings_of(folder), enable_thinking=thinks)
        found = weights.read_own(theirs, folder)
        weights.check_preset(settings, found[0], folder)
        return found
    if settings.init_from is not None:
        return weights.read_model(settings)
    goes_on = workdir is not None and weights.latest_iteration(workdir) is not None
    place = workdir if goes_on else settings.start_from
    kept = None if place is None else paths.absolute(place) / "tokenizer"
    if kept is not None and kept.is_dir():
        return weights.read_model(settings, tokenizers.load(kept))
    return weights.read_model(settings, weights.task_tokenizer(task))


def make_task(settings: Settings, from_nothing: bool, only_grades: bool = False) -> Task:
    """The task that the settings name, opened.

    Args:
      settings: of a run.
      from_nothing: whether its model starts from random weights.
      only_grades: texts are graded, no problems are needed.

    Raises:
      ValueError: no such task, a file that it cannot read, or no sandbox that works here.
    """
    make = tasks.find(settings.task)
    told = settings.task_settings(from_nothing, only_grades)
    is_chosen = extensions.is_file(settings.task) and settings.reward != RewardConfig()
    if is_chosen:
        told = _Watched.of(told)
    try:
        if settings.reward.weights and not only_grades and not extensions.is_file(settings.task):
            check_weights(make, told)
        task = make(told)
    except SandboxError as error:
        raise ValueError(str(error)) from None
    if not isinstance(task, Task):
        kind = type(task).__name__
        raise ValueError(
            f"task={settings.task}: make returns a {kind}, it must return a tasks.Task"
        )
    if is_chosen:
        check_reward_is_read(settings, task, told)
    return task


def check_weights(make: Callable[[TaskSettings], Task], told: TaskSettings) -> None:
    """ValueError where a weight is of a part that the task's grades have not, before it builds its
    problems, which may take minutes."""
    task = make(dataclasses.replace(told, only_grades=True, from_nothing=False))
    try:
        tasks.parts_of(task)
    finally:
        task.close()


class _Watched(TaskSettings):
    """Settings that know whether their reward was read."""

    @classmethod
    def of(cls, told: TaskSettings) -> "_Watched":
        names = [field.name for field in dataclasses.fields(told)]
        watched = cls(**{name: getattr(told, name) for name in names})
        object.__setattr__(watched, "reward_is_read", False)
        return watched

    def __getattribute__(self, name: str) -> Any:
        if name == "reward":
            object.__setattr__(self, "reward_is_read", True)
        return super().__getattribute__(name)


def check_reward_is_read(settings: Settings, task: Task, told: _Watched) -> None:
    """ValueError where a user's own task passes over the reward that was chosen; it is closed."""
    try:
        tasks.parts_of(task)  # grades nothing, which may be where the reward is read
    except ValueError:
        task.close()
        raise
    if told.reward_is_read:
        return
    task.close()
    given, mend = f"variant={settings.reward.variant}", "give reward.variant=mended"
    for name, weight in settings.reward.weights.items():
        given, mend = f"weights.{name}={weight:g}", "leave it out"
    raise ValueError(
        f"reward.{given}: task={settings.task} does not read settings.reward: {mend}, or let its "
        "grade use settings.reward"
    )


def problems_of(
    settings: Settings, task: Task, tokenizer: Tokenizer, say: Callable[[str], None]
) -> tuple[data.Problems, data.Problems]:
    """(training problems, held-out problems)."""

    def problems(records: Sequence[Record]) -> data.Problems:
        return data.problems_of(
            task,
            records,
            tokenizer,
            settings.prompt_length,
            settings.sampler.gen_length,
            too_long=settings.too_long,
            max_lengths=settings.max_lengths,
            report=say,
        )

    train, heldout = split(settings, task, say)
    half = data.half_of(task, heldout, settings.heldout_half)
    return problems(train), problems(half)


def split(
    settings: Settings, task: Task, say: Callable[[str], None]
) -> tuple[Sequence[Record], Sequence[Record]]:
    """(training records, held-out records): the task's, or a stated share of all.

    Those of a data_file come in an order that `heldout_seed` draws, those of a heldout_file in
    their own.
    """
    if not len(task.train):
        raise ValueError(f"task={settings.task}: it has no training problems")
    train, heldout, seed = task.train, task.heldout, settings.heldout_seed
    own = heldout is not None and settings.heldout_file is None  # the task's own split
    if own and settings.data_file is None:
        return train, heldout
    problems, share = data.asked(task, train), settings.heldout_share
    if heldout is not None:
        train, asked = data.mixed(train, problems, seed), data.asked(task, heldout)
        if own:
            return train, data.mixed(heldout, asked, seed)
        same = len(set(problems) & set(asked))
        if same:
            say(f"{settings.heldout_file}: {same} of its problems are trained on, word by word")
        return train, heldout
    file = settings.data_file or settings.task
    if not share or len(set(problems)) < 2:
        say(f"nothing of {file} is held out: evaluations use the training problems")
        return (data.mixed(train, problems, seed),) * 2
    pairs = list(zip(train, problems, strict=True))
    train, heldout = (
        data.mixed(*zip(*part), seed) for part in data.split_records(pairs, problems, share, seed)
    )
    say(
        f"held out: {len(heldout)} of the {len(task.train)} problems of {file} "
        f"(heldout_share={share:g}, heldout_seed={seed})"
    )
    return train, heldout


# ---------------------------------------------------------------- checks


def make_mesh(settings: Settings, devices=None) -> jax.sharding.Mesh:
    """The mesh of the settings, by default of all devices there are."""
    return sharding.make_mesh(vars(settings.mesh), devices, settings.slice_rows)


def check_settings(settings: Settings, mesh: jax.sharding.Mesh | None) -> None:
    """What needs devices, but neither task nor tokenizer; nothing is compiled or written.

    Args:
      settings: of a run.
      mesh: its mesh; None: there is none that fits, and what needs one is not checked.

    Raises:
      mistakes.Mistakes: the settings do not fit the mesh, nothing can compute their attention
        there, the objective does not fit its slices, columns are named of no file, or there is no
        such sink; each in a line.
    """
    wrong = Gathered()
    if mesh is not None:
        for check in (check_rows, check_kernel):
            with wrong.check():
                check(settings, mesh)
    for check in (check_views, check_columns):
        with wrong.check():
            check(settings)
    for name in settings.sinks:
        with wrong.check():
            report.find_sink(name)
    wrong.end()


def check_rows(settings: Settings, mesh: jax.sharding.Mesh) -> None:
    """ValueError where the rows of a slice or of a supervised batch do not go round the mesh."""
    wrong = Gathered()
    with wrong.check():
        named = "prompts_per_round * group_size / (minibatches * slices)"
        sharding.check_rows(mesh, settings.slice_rows, named)
    if settings.sft.steps:
        with wrong.check():
            sharding.check_rows(mesh, settings.sft.batch, "sft.batch")
    wrong.end()


def check_kernel(settings: Settings, mesh: jax.sharding.Mesh) -> None:
    """ValueError where nothing can compute the attention of the named preset on these devices."""
    if settings.model is not None:
        model = weights.with_settings(models.preset(settings.model), settings)
        models.find_kernel(settings.attention_kernel, model, mesh.devices.flat[0])


def check_columns(settings: Settings) -> None:
    """ValueError where columns of files have names, but there is no file."""
    if settings.columns and settings.data_file is None and settings.heldout_file is None:
        ours, theirs = next(iter(settings.columns.items()))
        raise ValueError(
            f"columns.{ours}={theirs} names a column of a file, and there is none: add "
            "data_file=FILE.jsonl, or leave it out"
        )


def check(
    settings: Settings, mesh: jax.sharding.Mesh, model: ModelConfig, task: Task | None = None
) -> None:
    """Everything that needs devices, model or task; nothing is compiled or written.

    Raises:
      mistakes.Mistakes: as `check_settings`; or the mesh does not divide the model, or the task
        does not serve the objective.
    """
    wrong = Gathered()
    with wrong.check():
        check_settings(settings, mesh)
    with wrong.check():
        sampling.check_model(model, settings.sampler)
    with wrong.check():
        sharding.shardings(mesh, models.param_shapes(model))
    with wrong.check():
        sharding.check_vocabulary(mesh, model.vocab_size)
    with wrong.check():
        check_graded(settings, task)
    wrong.end()


def check_graded(settings: Settings, task: Task | None) -> None:
    """ValueError where an objective learns from rewards that the task does not give."""
    if task is None or task.grade is not None:
        return
    if settings.rounds and objectives.find(settings.objective).rewards:
        raise ValueError(
            f"objective={settings.objective} learns from rewards, but task={settings.task} grades "
            "nothing: choose an objective that distils, another task, or rounds=0"
        )


def check_views(settings: Settings) -> None:
    """ValueError where the objective's views are impossible for slices of this shape."""
    sampler, rows, gen = settings.sampler, settings.slice_rows, settings.sampler.gen_length
    columns = settings.prompt_length + gen
    views_fn = objectives.make_views_fn(settings.objective, settings.objective_config)

    def views():
        batch = Batch(
            jnp.zeros((rows, columns), jnp.int32),
            jnp.ones((rows, columns), bool),
            jnp.full((rows,), gen),
            None,
            logp_BxG=jnp.zeros((rows, gen)),
            step_map_BxG=jnp.zeros((rows, gen), jnp.int32),
            prompt_len=settings.prompt_length,
            block=sampler.causal_block,
        )
        return views_fn(batch, settings.mask_draws, jax.random.key(0))

    jax.eval_shape(views)
