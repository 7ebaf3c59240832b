"""Channels of networks: the images of a session, and what is made of them.

A channel is a modality or, as ``T1w-mirrored``, the mirror image of one (``core.mirror``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

MODALITIES = ("T1w", "FLAIR")
MIRRORED = {f"{modality}-mirrored": modality for modality in MODALITIES}
CHANNELS = (*MODALITIES, *MIRRORED)


def modalities_of(channels: Iterable[str]) -> tuple[str, ...]:
    """Modalities that channels are made of, each once, in their order."""
    return tuple(dict.fromkeys(MIRRORED.get(channel, channel) for channel in channels))


def with_mirrored(
    images: Mapping[str, np.ndarray],
    channels: Sequence[str],
    brain: np.ndarray | None,
    spacing: Sequence[float],
) -> dict[str, np.ndarray]:
    """Images [x, y, z] in RAS by channel, and the mirrored ones that ``channels`` ask for.

    Those that are given stay; of an image that is not given there is no mirror. ``brain`` is a
    mask on the same grid, not empty; None stands for what is not zero. ``spacing``: mm along x, y,
    z.
    """
    import numpy as np  # these take long to import, and who plans a run needs none of them

    from bids_stroke.core.mirror import mirrored

    affine = np.diag([*map(float, spacing), 1.0])
    asked = {c: MIRRORED[c] for c in channels if c in MIRRORED and c not in images}
    made = {
        channel: mirrored(images[m], images[m] != 0 if brain is None else brain != 0, affine)
        for channel, m in asked.items()
        if m in images
    }
    return {**images, **made}
