"""Gaussian naive Bayes for two classes, as LesionGnb uses it: fit, posterior, parameters."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FEATURES = ("missing", "abnormal")
PRIORS = (0.8936, 0.1064)
"""Shares of healthy and of lesion voxels (Griffis et al. 2016)."""
MIN_VARIANCE = 1e-5
"""Features have two decimals: no class is surer of its mean than the rounding lets it be
(the variance of a uniform error of a hundredth is 8e-6)."""


@dataclass(frozen=True)
class Parameters:
    """For healthy (0) and lesion (1): prior, and mean and variance of each feature."""

    means: tuple[tuple[float, ...], tuple[float, ...]]
    variances: tuple[tuple[float, ...], tuple[float, ...]]
    priors: tuple[float, float] = PRIORS


def fit(
    samples: NDArray[np.floating],
    lesion: NDArray[np.bool_],
    priors: tuple[float, float] = PRIORS,
) -> Parameters:
    """Means and variances by class of samples [n, features]; priors are given, not counted.

    Raises ValueError when a class has no sample.
    """
    classes = [samples[~lesion], samples[lesion]]
    if not all(len(of) for of in classes):
        raise ValueError("Naive Bayes needs voxels of both classes, healthy and lesion.")
    means = [of.mean(axis=0, dtype=np.float64) for of in classes]
    variances = [np.maximum(of.var(axis=0, dtype=np.float64), MIN_VARIANCE) for of in classes]
    return Parameters(_pair(means), _pair(variances), priors)


def _pair(rows: list[NDArray[np.float64]]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    healthy, lesion = (tuple(float(value) for value in row) for row in rows)
    return healthy, lesion


def posterior(parameters: Parameters, features: NDArray[np.floating]) -> NDArray[np.float32]:
    """Probability of lesion [...] of feature maps [features, ...]."""
    logs = [_log_joint(parameters, number, features) for number in (0, 1)]
    margin = np.clip(logs[0] - logs[1], -80, 80)  # exp stays finite in float32
    return (1 / (1 + np.exp(margin))).astype(np.float32)


def _log_joint(
    parameters: Parameters, number: int, features: NDArray[np.floating]
) -> NDArray[np.floating]:
    """Logarithm of prior times density, up to a constant that both classes share."""
    total = np.full(features.shape[1:], np.log(parameters.priors[number]))
    for values, mean, variance in zip(
        features, parameters.means[number], parameters.variances[number], strict=True
    ):
        total -= 0.5 * (np.log(variance) + (values - mean) ** 2 / variance)
    return total


def to_table(parameters: Parameters) -> dict[str, Any]:
    """Parameters as TOML tables ``healthy`` and ``lesion``."""
    names = ("healthy", "lesion")
    return {
        name: {
            "prior": parameters.priors[i],
            "mean": dict(zip(FEATURES, parameters.means[i], strict=True)),
            "variance": dict(zip(FEATURES, parameters.variances[i], strict=True)),
        }
        for i, name in enumerate(names)
    }


def from_table(table: Mapping[str, Any]) -> Parameters:
    """Parameters of ``to_table``; raises ValueError for what is missing or impossible."""
    try:
        classes = [table[name] for name in ("healthy", "lesion")]
        means, variances = (
            [np.array([float(of[key][f]) for f in FEATURES]) for of in classes]
            for key in ("mean", "variance")
        )
        priors = float(classes[0]["prior"]), float(classes[1]["prior"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"parameters of naive Bayes lack {error}") from error
    numbers = np.concatenate([*means, *variances, priors])
    if not np.isfinite(numbers).all() or np.min([*variances, priors]) <= 0:
        raise ValueError("variances and priors of naive Bayes must be finite and above 0")
    return Parameters(_pair(means), _pair(variances), priors)
