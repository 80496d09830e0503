"""Make a model good: recipe, optimizer, schedule, checkpoints, the loop, and a run from start to end."""
