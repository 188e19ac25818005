"""Sheets of small pictures, for 09 Uncertainty and 10 Selection."""

import io
from collections.abc import Sequence
from functools import lru_cache

from IPython.display import Image as DisplayedImage
from matplotlib import pyplot as plt
from PIL import Image, ImageDraw, ImageFont

from stal_nb.app.selection_explorer import city_colours

CHOSEN = (214, 39, 40)  # frame of what is queried


# Contact sheets
#
# Drawn with Pillow, pixel by pixel: quick enough for a live control.


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.ImageFont:
    return ImageFont.load_default(size)


def contact_sheet(
    # cells (pictures one below the other, caption, colour of a bar below them or None, framed)
    rows: Sequence[Sequence[tuple]],
    size: tuple[int, int] = (96, 48),  # (width, height) of one picture
    gap: int = 6,
) -> Image.Image:
    "Small pictures in rows, each with a caption below, an optional coloured bar, and a frame around what is chosen."
    width, height = size
    tallest = [max(len(cell[0]) for cell in row) * height + 24 for row in rows]
    sheet = Image.new("RGB", (max(len(row) for row in rows) * (width + gap) + gap, sum(tallest) + gap), "white")
    draw, y = ImageDraw.Draw(sheet), gap
    for row, tall in zip(rows, tallest):
        for k, (pictures, caption, colour, framed) in enumerate(row):
            x = gap + k * (width + gap)
            for n, picture in enumerate(pictures):
                sheet.paste(Image.fromarray(picture).resize(size, Image.Resampling.BOX), (x, y + n * height))
            bottom = y + len(pictures) * height
            if colour:
                draw.rectangle((x, bottom, x + width - 1, bottom + 3), fill=colour)
                bottom += 4
            if framed:
                for border in range(1, 4):
                    draw.rectangle((x - border, y - border, x + width - 1 + border, bottom - 1 + border),
                                   outline=CHOSEN)
            draw.text((x, bottom + 3), caption, fill="black" if framed or not colour else (90, 90, 90), font=_font(11))
        y += tall
    return sheet


def city_legend(groups: Sequence[str], width: int) -> Image.Image:
    "The cities and their colours in one line."
    line = Image.new("RGB", (width, 18), "white")
    draw, x = ImageDraw.Draw(line), 6
    for city, colour in city_colours(groups).items():
        draw.rectangle((x, 4, x + 18, 12), fill=colour)
        draw.text((x + 23, 2), city, fill="black", font=_font(12))
        x += 40 + int(draw.textlength(city, font=_font(12)))
    return line


def below(*pictures: Image.Image) -> Image.Image:
    "Pictures one below the other."
    sheet = Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)), "white")
    y = 0
    for picture in pictures:
        sheet.paste(picture, (0, y))
        y += picture.height
    return sheet


def bare(axis: plt.Axes, picture, title: str = "", **options) -> None:
    "A picture without ticks."
    axis.imshow(picture, **options)
    axis.set(xticks=[], yticks=[])
    for side in axis.spines.values():
        side.set_visible(False)
    if title:
        axis.set_title(title, fontsize=9, pad=3)

MAGMA = dict(cmap="magma", vmin=0, vmax=1)  # uncertainty looks the same everywhere


def colourbar(figure: plt.Figure, axes, shrink: float = 0.8) -> None:
    "The scale from sure to unsure, beside all `axes`, which keep their alignment."
    scale = plt.cm.ScalarMappable(norm=plt.Normalize(0, 1), cmap="magma")
    bar = figure.colorbar(scale, ax=axes, fraction=0.02, pad=0.012, shrink=shrink, ticks=[0, 0.5, 1])
    bar.ax.set_yticklabels(["0 sure", "0.5", "1 unsure"], fontsize=8)
    bar.outline.set_visible(False)


def jpeg(picture: plt.Figure | Image.Image, quality: int = 80) -> DisplayedImage:
    "A figure or sheet as a JPEG: live controls answer faster, and a saved notebook stays small."
    file = io.BytesIO()
    if isinstance(picture, Image.Image):
        picture.save(file, "JPEG", quality=quality)
    else:
        picture.savefig(file, format="jpeg", pil_kwargs={"quality": quality})
        plt.close(picture)
    return DisplayedImage(file.getvalue(), format="jpeg")
