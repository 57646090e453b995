"""The plan and its execution: studies, run folders, workers, tracking, the `sngan` command."""
