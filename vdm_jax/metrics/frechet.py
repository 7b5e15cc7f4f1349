"""The Fréchet distance of two Gaussians, by which sets of pictures (FID) or videos (FVD) compare.

Dowson and Landau 1982; Heusel et al. 2017 (arXiv:1706.08500), equation 6; Unterthiner et al. 2018
(arXiv:1812.01717) for video:

    |mu_a - mu_b|^2 + tr(S_a) + tr(S_b) - 2 tr (S_a^1/2 S_b S_a^1/2)^1/2

With S = F F^T the last trace is the nuclear norm of F_a^T F_b, the sum of its singular values. No
root is taken of a product, whose rounding is what other ways lose digits to where fewer clips than
features leave a covariance singular.

Covariances divide by n, as the code does that published FVD come from (StyleGAN-V, cd-fvd).
pytorch-fid divides by n - 1, which is 0.002 % of its 50,000 pictures. The value of n clips is above
the distance of the two distributions by about c / n: compare only values of as many clips.
"""

import numpy as np
from jaxtyping import Float64

from vdm_jax.core.refusal import Refusal
from vdm_jax.metrics.moments import Moments


def frechet(a: Moments, b: Moments) -> float:
    """0 for equal moments; in squared units of the features.

    Raises Refusal for features of two widths, or fewer than two rows in one.
    """
    if a.width != b.width:
        raise Refusal(f"features of width {a.width} and of {b.width} cannot be compared")
    root_a, root_b = _root(a.covariance_of_all), _root(b.covariance_of_all)
    shared = np.linalg.svd(root_a.T @ root_b, compute_uv=False).sum()
    apart = ((a.mean - b.mean) ** 2).sum() + (root_a**2).sum() + (root_b**2).sum() - 2 * shared
    return max(0.0, float(apart))


def rank(moments: Moments) -> int:
    """Directions in which the clips differ; below the width of the features, they are too few."""
    return _root(moments.covariance_of_all).shape[1]


def _root(covariance: Float64[np.ndarray, "d d"]) -> Float64[np.ndarray, "d r"]:
    """F with F F^T the covariance, of its rank: eigenvalues that are but rounding are left out."""
    values, vectors = np.linalg.eigh(covariance)
    least = len(values) * np.finfo(np.float64).eps * max(values.max(initial=0), 0)
    true = values > least
    return vectors[:, true] * np.sqrt(values[true])
