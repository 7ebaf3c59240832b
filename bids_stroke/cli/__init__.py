"""The command line: ``argv`` to Config, Config to a run."""
