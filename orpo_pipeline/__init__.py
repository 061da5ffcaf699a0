"""Preference data to chat model: preparation, planning, ORPO training and evaluation."""
