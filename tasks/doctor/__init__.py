"""Checks of `orpo-pipeline doctor`: each looks at one thing and says what it found."""
