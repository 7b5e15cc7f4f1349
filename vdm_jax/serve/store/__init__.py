"""What outlives every process of a server: jobs, keys, and what the workers say of themselves."""
