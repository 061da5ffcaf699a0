"""The model card: README.md beside each adapter and in each export."""
