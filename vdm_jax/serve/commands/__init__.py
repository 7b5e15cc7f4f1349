"""What the verb does from the shell."""
