"""The demo: a small Llama pre-trained from scratch on generated text, then LoRA-trained with several gradient hooks."""
