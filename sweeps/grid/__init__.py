"""The grid of experiments: suites, tasks and estimates."""
