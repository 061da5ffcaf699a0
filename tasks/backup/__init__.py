"""The state folder in one file, made while everything runs, and put back whole or not at all."""
