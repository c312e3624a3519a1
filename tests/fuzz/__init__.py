"""Fuzzing: what comes from outside is taken, or refused by an error of a known kind."""
