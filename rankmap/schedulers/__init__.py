"""Batch schedulers: the hosts that a job has, read from its environment, and the scripts that are submitted to them."""
