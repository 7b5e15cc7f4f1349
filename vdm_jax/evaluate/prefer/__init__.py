"""Which model people prefer: a study of blinded pairs, as Stable Video Diffusion was judged by."""
