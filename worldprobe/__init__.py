"""The product around tasks, probing and interventions: command line, runs, report."""

__version__ = "0.1.0"
