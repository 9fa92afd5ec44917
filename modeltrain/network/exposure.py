"""One exposure for all images: grey values are moved to the mean of the training images.

Landmarks are percentiles, with straight lines between them (Nyúl and Udupa 1999, "On standardizing the MR image
intensity scale"). Brightness and contrast of an image then say next to nothing; which of two places is lighter stays.
The step is a part of the network, so it is the same on every engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.functional import pad

if TYPE_CHECKING:
    from torch import Tensor

NAME = "landmarks"
KEY = f"standard.{NAME}"  # among the weights of a ChestNet
LANDMARKS = 11  # percentiles, evenly spaced between the outermost
_TRIMMED = 0.005  # beyond the outermost lie a marker's white and a few cold pixels
_BLACK = 0.02  # up to here it is collimation, and no part of the body
_NARROWEST = 1e-3  # a quarter of a grey value of an eight-bit image: two landmarks of one image are no closer


class Exposure(nn.Module):
    """Move images' landmarks to `landmarks`, float32 [L] in [0, 1]. Without landmarks, images stay as they are.

    Black stays black and white stays white, unless so much is clipped that landmarks lie there, or the image has one
    grey value only.
    """

    landmarks: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer(NAME, torch.zeros(0))

    def forward(self, image: Tensor) -> Tensor:
        """Return images [N, 1, H, W] with values in [0, 1] at the landmarks' exposure."""
        count = self.landmarks.numel()
        if not count:
            return image
        own = _with_ends(landmarks_of(image, count))[:, :, None, None]  # [N, L + 2, 1, 1]
        step = _with_ends(self.landmarks).diff()[:, None, None]
        width = (own[:, 1:] - own[:, :-1]).clamp(min=_NARROWEST)
        middle = (own[:, 1:] + own[:, :-1]) / 2  # where landmarks are tied, a pixel on them comes halfway
        # How far each pixel has come between two landmarks, times what there is between them: [N, L + 1, H, W].
        return ((image * (1 / width) + (0.5 - middle / width)).clamp(0, 1) * step).sum(dim=1, keepdim=True)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Save nothing if there are no landmarks."""
        if self.landmarks.numel():
            super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load as many landmarks as the weights have, or none."""
        landmarks = state_dict.get(f"{prefix}{NAME}")
        self.landmarks = self.landmarks.new_zeros(0 if landmarks is None else landmarks.shape)
        if landmarks is not None:
            super()._load_from_state_dict(state_dict, prefix, *args)


def _with_ends(landmarks: Tensor) -> Tensor:
    """Return landmarks [..., L] between black and white, [..., L + 2]."""
    return pad(pad(landmarks, (1, 0)), (0, 1), value=1.0)


def landmarks_of(images: Tensor, count: int = LANDMARKS) -> Tensor:
    """Return the grey values of evenly spaced percentiles of images [N, 1, H, W]: [N, count], ascending.

    The outer tenth does not count, nor does what is black: collimation is wide in some images and not in others. Every
    other row does, so that a mirror image has the same landmarks.
    """
    rows, columns = (side // 10 for side in images.shape[2:])
    inner = images[:, :, rows : images.shape[2] - rows : 2, columns : images.shape[3] - columns]
    values = inner.flatten(1).sort(dim=1).values
    last = values.shape[1] - 1
    black = (values <= _BLACK).sum(dim=1, keepdim=True).clamp(max=last)
    shares = torch.linspace(_TRIMMED, 1 - _TRIMMED, count, device=images.device)
    return values.gather(1, (black + (last - black) * shares).round().long())
