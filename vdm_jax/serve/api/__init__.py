"""What is answered over HTTP, by a process that draws nothing and never imports JAX."""
