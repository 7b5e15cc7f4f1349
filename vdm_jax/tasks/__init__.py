"""A task is one problem: its training loss and its generation, together."""
