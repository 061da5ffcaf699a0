"""Folders that other tools load: the adapter, merged weights, GGUF."""
