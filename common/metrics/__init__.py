"""One `evaluate.Metric` for each family of tasks, defined in code: nothing is downloaded when a run scores."""
