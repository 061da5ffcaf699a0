"""What `up` does about servers that died, runs that were cut off, and what they left behind."""
