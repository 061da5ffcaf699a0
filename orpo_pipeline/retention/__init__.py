"""What may go from the state folder: who uses it, what nothing needs, and its removal."""
