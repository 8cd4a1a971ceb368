"""A teacher behind any OpenAI-compatible server, and what it has answered (docs/factory.md)."""
