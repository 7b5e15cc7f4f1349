"""What draws: a process of its own, which owns the accelerator, and who watches over it."""
