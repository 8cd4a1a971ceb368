"""Evaluations side by side: differences on the same problems, and what lm-evaluation-harness says of the same documents."""
