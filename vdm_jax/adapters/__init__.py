"""What training changes of a model: all of it, some of it, or a small delta beside it."""
