"""Continuing from a checkpoint: whether this run may, and putting everything back. docs/training.md is the user's page.

Read in this order: ``mathematics`` (which changed keys make it another run), ``sources`` (whether model and data are the same),
``layout`` (forward passes on another number of ranks), ``start`` (what is decided before anything is loaded), ``restore`` (what
happens when model and data are there), ``surroundings`` (other versions and devices), ``history`` (what the run folder keeps of it), ``foreign`` (folders that are something
else).
"""
