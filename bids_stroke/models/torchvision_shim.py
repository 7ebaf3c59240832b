"""Let a torchvision without compiled operators import, as it comes with the CPU build of torch."""

from __future__ import annotations

import torch

_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_kept: list[torch.library.Library] = []  # a library that is collected takes its operators along


def ensure_torchvision() -> None:
    """Declare torchvision's ``nms`` and ``qnms`` where they are missing; call it before nnU-Net.

    nnU-Net's trainer lookup imports timm, which imports torchvision, which on this build fails for
    want of the two operators. None of them is ever called here. Calling it twice is harmless.
    """
    missing = [name for name in ("nms", "qnms") if not hasattr(torch.ops.torchvision, name)]
    if not missing or _kept:
        return
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in missing:
            library.define(name + _SIGNATURE)
        _kept.append(library)
    except ImportError:
        return
