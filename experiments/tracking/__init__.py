"""W&B: the mirror of a run, a study's workspace and report, the terminal viewer. Nothing else here imports it."""
