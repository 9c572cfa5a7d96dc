"""Samplers: one engine for training rollouts and evaluation."""
from gdsd_jax.sampling.rollout import SamplerConfig, make_rollout_fn

__all__ = ["SamplerConfig", "make_rollout_fn"]
