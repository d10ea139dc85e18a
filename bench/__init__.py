"""The benchmark, `python -m bench`: actorflow, its rivals and the machine's own limits, in one run."""
