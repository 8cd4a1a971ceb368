"""Public benchmarks as tasks: prompts, answer extraction, scoring; a file each."""
