"""A drawn tabletop, for models that bring no picture of their own."""

from __future__ import annotations

from PIL import Image, ImageDraw, ImageFilter, ImageFont

WIDTH, HEIGHT = 640, 480
_WALL, _TABLE, _EDGE = (226, 222, 214), (171, 121, 77), (139, 95, 57)
_RED, _RED_TOP, _RED_SIDE = (201, 52, 46), (226, 96, 84), (158, 34, 32)
_BLUE = ((28, 120), (70, 170), (150, 235))
"""Each channel of the ball, from its edge to its highlight."""


def scene() -> Image.Image:
    """A red cube, a blue ball, a green cone and a sign on a wooden table, [480, 640] RGB."""
    image = Image.new("RGB", (WIDTH, HEIGHT), _WALL)
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 235, WIDTH, HEIGHT), fill=_TABLE)
    for top in range(250, HEIGHT, 22):
        pen.line((0, top, WIDTH, top + 6), fill=_EDGE, width=1)
    _shadows(image, [(130, 352, 330, 392), (352, 350, 512, 392), (505, 300, 625, 330)])
    pen = ImageDraw.Draw(image)
    pen.polygon([(140, 240), (270, 240), (270, 370), (140, 370)], fill=_RED)
    pen.polygon([(140, 240), (180, 205), (310, 205), (270, 240)], fill=_RED_TOP)
    pen.polygon([(270, 240), (310, 205), (310, 330), (270, 370)], fill=_RED_SIDE)
    for step in range(70):
        colour = tuple(round(dark + (light - dark) * step / 70) for dark, light in _BLUE)
        x, y, radius = 425 - step * 0.3, 305 - step * 0.35, 70 - step
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    pen.polygon([(565, 175), (520, 312), (610, 312)], fill=(54, 140, 78))
    pen.ellipse((520, 300, 610, 324), fill=(54, 140, 78))
    pen.rectangle((30, 60, 170, 120), fill=(250, 250, 246), outline=(60, 60, 60), width=3)
    pen.text((100, 90), "OPEN", font=ImageFont.load_default(36), fill=(40, 40, 40), anchor="mm")
    return image


def _shadows(image: Image.Image, ellipses: list[tuple[int, int, int, int]]) -> None:
    """Soft shadows where things touch the table."""
    mask = Image.new("L", image.size)
    pen = ImageDraw.Draw(mask)
    for ellipse in ellipses:
        pen.ellipse(ellipse, fill=120)
    image.paste((40, 24, 12), mask=mask.filter(ImageFilter.GaussianBlur(8)))
