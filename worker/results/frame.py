"""Where everything stands in a picture, in pixels."""

from __future__ import annotations

from dataclasses import dataclass

WIDTHS = (1000, 1600)  # least and greatest width of a picture that is 1,024 pixels high


@dataclass(frozen=True)
class Frame:
    """The places of a picture's parts, in pixels.

    Attributes
    ----------
    width, height
        Of the picture.
    unit
        Size of plain text, and the measure of all spaces.
    top
        Where the panels begin.
    panels
        How many stand side by side.
    panel
        Width and height of each of them.
    image
        Width and height of the radiograph, in the middle of its panel.
    """

    width: int
    height: int
    unit: int
    top: int
    panels: int
    panel: tuple[int, int]
    image: tuple[int, int]

    def left(self, number: int) -> int:
        """Return where a panel begins; the number after the last is the colour bar's."""
        return self.unit + number * (self.panel[0] + self.unit)

    def corner(self, number: int) -> tuple[int, int]:
        """Return left and top of the radiograph in a panel."""
        left = self.left(number) + (self.panel[0] - self.image[0]) // 2
        return left, self.top + (self.panel[1] - self.image[1]) // 2

    @property
    def bar(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of the colour bar; its name stands above it."""
        left, length = self.left(self.panels), min(self.panel[1] - round(3.2 * self.unit), 18 * self.unit)
        top = self.top + (self.panel[1] - length) // 2
        return left, top, left + round(0.9 * self.unit), top + length


def unit_of(height: int) -> int:
    """Return the size of plain text in a picture of a height."""
    return max(9, round(height * 0.0215))


def least_width(height: int) -> int:
    """Return the width that a picture of a height has at least."""
    return round(WIDTHS[0] * height / 1024)


def fit(rows: float, columns: float, height: int, *, panels: int = 2, lines: int = 1, bar: bool = True) -> Frame:
    """Fit panels of a radiograph of such proportions, `lines` below the headline and a colour bar into a picture."""
    unit = unit_of(height)
    # headline, probability and captions; footer; colour bar with its labels
    above, below, labels = round((6.6 + 1.4 * lines) * unit), round(3.9 * unit), 5 * unit if bar else 0
    least, most = least_width(height), round(WIDTHS[1] * height / 1024)
    rest = labels + (panels + 1 + bar) * unit  # the width that is not panels
    scale = min((height - above - below) / rows, ((most - rest) // panels) / columns)
    image = max(1, round(columns * scale)), max(1, round(rows * scale))
    panel = max(image[0], -(-(least - rest) // panels)), max(image[1], 10 * unit)
    return Frame(
        width=panels * panel[0] + rest,
        height=above + panel[1] + below,
        unit=unit,
        top=above,
        panels=panels,
        panel=panel,
        image=image,
    )
