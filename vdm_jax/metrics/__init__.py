"""Numbers that judge generated video."""
