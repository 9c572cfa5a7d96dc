"""A task of your own: problems, prompts, a grade, and answers for the supervised start.

python launch/main.py --config=configs/examples/own_task.py
    as long as the embedded default of configs/coding.py: about 9 minutes on 2 cores
python launch/main.py --config=configs/examples/own_task.py:tiny,sft.steps=20,rounds=2
    to try the file: a minute, too short to learn anything
python launch/main.py --config=configs/examples/own_task.py:tiny,options.largest=50

Any other recipe takes the file too: --config=configs/coding.py:llada,task=own_task.py,...
N answers.
"""

import dataclasses

from ml_collections import ConfigDict
import numpy as np

from configs import coding, common
from gdsd_jax.tasks import Grades, Task


def get_config(arg=None):
    _, overrides = common.parse(arg, ("tiny",))
    recipe = coding.embedded()
    recipe.update(ConfigDict({"name": "adding", "greeting": "adding numbers", "task": __file__}))
    return common.config(recipe, overrides)


@dataclasses.dataclass(frozen=True)
class OPTIONS:  # set as options.largest=50
    largest: int = 20


def make(settings):
    numbers = range(settings.options.largest)
    records = [{"a": a, "b": b} for a in numbers for b in numbers]
    return Task(records, None, messages, grade, answer)


def messages(record):
    return [{"role": "user", "content": f"{record['a']} + {record['b']} ="}]


def answer(record, seed):  # for the supervised start
    return str(record["a"] + record["b"])


def grade(records, texts):
    pairs = zip(records, texts)
    right_N = np.array([text.strip() == answer(record, None) for record, text in pairs], bool)
    return Grades(reward_N=right_N.astype(np.float32), solved_N=right_N, parts={})
