"""An objective of your own: a policy gradient of the ELBO.

python launch/main.py --config=configs/examples/own_objective.py
    as long as the embedded default of configs/coding.py: about 9 minutes on 2 cores
python launch/main.py --config=configs/examples/own_objective.py:tiny,sft.steps=20,rounds=2
    to try the file: a minute, too short to learn anything
python launch/main.py --config=configs/examples/own_objective.py:tiny,own_objective.scale=2

Any other recipe takes the file too: --config=configs/coding.py:llada,objective=own_objective.py,...
B rows, K mask draws.
"""

import dataclasses

import jax.numpy as jnp
from ml_collections import ConfigDict

from configs import coding, common
from gdsd_jax.objectives import Objective
from gdsd_jax.scoring import draw_pairs, pair_scores


def get_config(arg=None):
    _, overrides = common.parse(arg, ("tiny",))
    recipe = coding.embedded()
    own = {"name": "own-objective", "greeting": "a policy gradient", "objective": __file__}
    recipe.update(ConfigDict(own))
    return common.config(recipe, overrides)


@dataclasses.dataclass(frozen=True)
class Config:  # its keys begin with the file's name
    scale: float = 1.0


def views(config, batch, draws, rng):
    return draw_pairs(rng, draws, batch, "answer")  # what is behind the answer is hidden too


def loss(denoiser, config, params, batch):
    scores = pair_scores(denoiser, params, batch, weighting="elbo", count="answer")
    score_B = jnp.mean(scores.plain_KxB, axis=0) / batch.completion_len_B  # nats a token
    return -config.scale * jnp.mean(batch.advantages_B * score_B), {"score": jnp.mean(score_B)}


OBJECTIVE = Objective(Config, loss, views)
