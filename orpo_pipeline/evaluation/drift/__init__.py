"""How far a model has moved from the base model, and what it has forgotten."""
