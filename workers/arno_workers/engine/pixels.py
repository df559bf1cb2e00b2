"""How the checkpoint's image processor makes pixels: resized by Pillow on the host, the rest by torch on the device."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL.Image import Image, Resampling
from transformers.image_transforms import normalize, rescale

from arno_shared.errors import ModelUnusable
from arno_workers.engine.rgb_array import rgb_array

_STEPS = {"do_convert_rgb", "do_resize", "do_rescale", "do_normalize"}
"""What a processor may do. Pictures are in RGB already; the rest is done here."""

_FAST_MODES = {Resampling.BICUBIC: "bicubic", Resampling.BILINEAR: "bilinear"}
"""What torch resizes with as Pillow does, but for rounding."""


class PixelRecipe:
    """Gives, in float32 and bit for bit, what transformers' image processor on Pillow and numpy gives.

    With `fast`, torch resizes: several times faster than Pillow, and seldom more than one step of 255 away from it.
    """

    def __init__(self, image_processor: Any, device: str, dtype: torch.dtype, *, fast: bool = False) -> None:
        """Raises ModelUnusable when the processor does something that is not done here."""
        steps = {name for name in dir(image_processor) if name.startswith("do_") and getattr(image_processor, name)}
        if "do_resize" not in steps or steps - _STEPS:
            raise ModelUnusable(
                f"the image processor must resize, and do nothing but {', '.join(sorted(_STEPS))}; "
                f"it does {', '.join(sorted(steps)) or 'nothing'}"
            )
        size = dict(image_processor.size)
        if set(size) != {"width", "height"}:
            raise ModelUnusable(f"the image processor must resize to a width and a height; its size is {size}")
        self.width, self.height = int(size["width"]), int(size["height"])
        try:
            self._resample = Resampling(image_processor.resample)
            self._divisor, self._mean, self._std = _constants(image_processor, steps, self.width)
            greys = np.arange(256, dtype=np.uint8).reshape(256, 1, 1).repeat(3, axis=2)
            expected = torch.from_numpy(_processed(greys, image_processor, steps))
        except Exception as error:
            raise ModelUnusable(f"the image processor's settings cannot be used: {error}") from error
        found = self._float32(torch.from_numpy(greys).expand(256, self.width, 3))
        if not torch.equal(found, expected.expand_as(found)):
            raise ModelUnusable(
                f"what the image processor makes with the rescale_factor {image_processor.rescale_factor} "
                "cannot be made bit for bit"
            )
        self._divisor, self._mean, self._std = (
            constant.to(device) for constant in (self._divisor, self._mean, self._std)
        )
        self._dtype = dtype
        self._fast_mode = _FAST_MODES.get(self._resample) if fast else None

    def resize(self, image: Image) -> NDArray[np.uint8]:
        """An RGB picture as the model takes it: height × width × 3. From any thread."""
        if image.size != (self.width, self.height):
            if self._fast_mode:
                return self._resize_fast(image, self._fast_mode)
            image = image.resize((self.width, self.height), self._resample)
        return rgb_array(image)

    def _resize_fast(self, image: Image, mode: str) -> NDArray[np.uint8]:
        pixels = torch.from_numpy(rgb_array(image)).permute(2, 0, 1)[None]
        resized = F.interpolate(pixels, (self.height, self.width), mode=mode, antialias=True)
        return resized[0].permute(1, 2, 0).contiguous().numpy()

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8, pictures × height × width × 3, on the device → pictures × 3 × height × width, channels last."""
        return self._float32(pixels).to(self._dtype).permute(0, 3, 1, 2)

    def _float32(self, pixels: torch.Tensor) -> torch.Tensor:
        # By rows, whose constants are as long: constants of three elements take torch four times as long on a CPU.
        rows = pixels.reshape(-1, self._mean.numel()).to(torch.float32)
        return rows.div_(self._divisor).sub_(self._mean).div_(self._std).view(pixels.shape)


def _constants(processor: Any, steps: set[str], width: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The divisor, and the mean and the standard deviation for each sample of a row."""
    # The processor multiplies, in float64: rounded to float32, that is what a division gives and a product does not.
    divisor = torch.tensor(1 / processor.rescale_factor if "do_rescale" in steps else 1, dtype=torch.float32)
    mean, std = (processor.image_mean, processor.image_std) if "do_normalize" in steps else (0, 1)
    mean, std = (torch.tensor(each, dtype=torch.float32).expand(3).repeat(width) for each in (mean, std))
    return divisor, mean, std


def _processed(pixels: NDArray[np.uint8], processor: Any, steps: set[str]) -> NDArray[np.float32]:
    """What transformers' own functions give, whichever backend the processor has: torchvision's rounds differently."""
    made: NDArray[Any] = pixels
    if "do_rescale" in steps:
        made = rescale(made, processor.rescale_factor)
    if "do_normalize" in steps:
        made = normalize(made, processor.image_mean, processor.image_std, input_data_format="channels_last")
    return made.astype(np.float32)
