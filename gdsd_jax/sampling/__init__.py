"""Samplers: one engine for training rollouts and evaluation."""
from gdsd_jax.sampling.config import SamplerConfig
from gdsd_jax.sampling.rollout import Passes, make_passes, make_rollout_fn, with_defaults

__all__ = ["Passes", "SamplerConfig", "make_passes", "make_rollout_fn", "with_defaults"]
