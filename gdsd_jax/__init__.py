"""Post-training of diffusion language models in JAX: GDSD, OPDLM and their baselines."""
