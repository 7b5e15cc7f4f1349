"""Diffusion mathematics on plain callables: levels, parameterisations, samplers, guidance."""
