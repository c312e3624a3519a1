"""Options of functions and apps."""
