"""ORPO training: adapters, loss, engines, checkpoints."""
