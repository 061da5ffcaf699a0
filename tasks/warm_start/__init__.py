"""What a retraining begins from: the base model, or the champion."""
