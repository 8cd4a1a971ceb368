"""Checkpoints: small, published atomically, verified before anything is loaded. docs/checkpoints.md is the user's page.

``RUN/checkpoints/step-00000100/``

==========================  =====================================================================================
``adapter/``                a normal PEFT folder; ``PeftModel.from_pretrained`` loads it
``optimizer.safetensors``   float32 masters and both moments, by adapter: independent of engine and number of ranks
``rng.safetensors``         each rank's random states
``hook.safetensors``        tensors of the hook's state, if it has any
``state.json``              step, counters, validation loss, the rest of the hook's state, the configuration
``manifest.json``           step, size and SHA-256 of every file above, and its own SHA-256; written last
==========================  =====================================================================================

``latest`` and ``best`` beside the folders name one of them each. No pickle is written or read.

Read in this order: ``manifest`` (what is valid), ``publish`` (how one comes to be), ``find`` (which one a run continues from),
``content`` (what is in the files). Only ``content``, ``rng`` and ``adapter`` need torch; ``igascale checkpoint`` does without.
"""
