"""Rewards computed on the host: numpy and the standard library only."""
