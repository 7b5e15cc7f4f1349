"""Weight files of others, read without running any of them: safetensors and torch."""
