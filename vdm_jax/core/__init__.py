"""Ground floor: configuration, meshes, checkpoints and video files. Knows no model."""
