"""Win rates by a chat model that compares answers, behind an OpenAI-compatible endpoint."""
