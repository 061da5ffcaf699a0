"""HTML pages that a run leaves behind: one look, and nothing foreign in them runs."""
