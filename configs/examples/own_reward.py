"""A reward of your own for a task of ours: Countdown, where each character of an answer costs.

python launch/main.py --config=configs/examples/own_reward.py
    as long as the embedded default of configs/countdown.py: a few minutes on 2 cores
python launch/main.py --config=configs/examples/own_reward.py:tiny,sft.steps=20,rounds=2
    to try the file: a minute, too short to learn anything

Any other recipe of that task takes the file too: --config=configs/countdown.py:llada,\
task=own_reward.py,... N answers.
"""

from ml_collections import ConfigDict
import numpy as np

from configs import common, countdown
from gdsd_jax import tasks

COST = 0.02  # of a character; a right answer is worth 1
OPTIONS = tasks.options_of("countdown")


def get_config(arg=None):
    _, overrides = common.parse(arg, ("tiny",))
    recipe = countdown.embedded()
    recipe.update(ConfigDict({"name": "short", "greeting": "short answers", "task": __file__}))
    return common.config(recipe, overrides)


def make(settings):
    task = tasks.find("countdown")(settings)

    def grade(records, texts):
        grades = task.grade(records, texts)
        length_N = np.array([len(text) for text in texts], np.float32)
        parts = {**grades.parts, "characters": length_N}  # drawn by name in the report
        return grades._replace(reward_N=grades.reward_N - COST * length_N, parts=parts)

    return task._replace(grade=grade)
