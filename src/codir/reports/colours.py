"""The page's colours: one list for light and one for dark, the same names in both.

Styles and figures name colours (`var(--accent)`), so that one switch changes both. Every text colour has a contrast of
at least 4.5 to 1 against `paper` and `card`, every line or marker at least 3 to 1 (WCAG 2.2, AA); a test computes it.
"""

from __future__ import annotations

LIGHT: dict[str, str] = {
    "paper": "#ffffff",
    "card": "#f6f7f9",
    "text": "#1b1f24",
    "soft": "#57606a",
    "rule": "#dfe3e8",
    "edge": "#868e98",
    "accent": "#0b5cad",
    "accent-soft": "#e3eefa",
    "on-accent": "#ffffff",
    "good": "#116329",
    "bad": "#a40e26",
    "warn": "#7a4b00",
    "warn-soft": "#fff4d6",
    "mark": "#ffe58a",
    "on-mark": "#1b1f24",
    "s0": "#5b636d",
    "s1": "#0b5cad",
    "s2": "#c2410c",
    "s3": "#0f7a55",
    "s4": "#9b3f9b",
    "s5": "#8a6a00",
    "s6": "#0e7c8c",
    "s7": "#b3245c",
    "s8": "#5a4fcf",
}
DARK: dict[str, str] = {
    "paper": "#12161c",
    "card": "#1b2129",
    "text": "#e8ebef",
    "soft": "#a7b0bb",
    "rule": "#303843",
    "edge": "#76808c",
    "accent": "#6cb2f7",
    "accent-soft": "#182c42",
    "on-accent": "#0d1117",
    "good": "#6fd08c",
    "bad": "#ff8f8f",
    "warn": "#f0c060",
    "warn-soft": "#33270f",
    "mark": "#7a5c00",
    "on-mark": "#ffffff",
    "s0": "#aab3bd",
    "s1": "#6cb2f7",
    "s2": "#ff9a62",
    "s3": "#4fc99a",
    "s4": "#dc96dc",
    "s5": "#d9b948",
    "s6": "#56c5d4",
    "s7": "#f78fb3",
    "s8": "#a9a0ff",
}
SERIES = 8
SYMBOLS = (
    "circle",
    "square",
    "diamond",
    "triangle-up",
    "cross",
    "x",
    "triangle-down",
    "pentagon",
    "hexagon",
)


def named(name: str) -> str:
    """Returns the style sheet's reference to a colour."""
    return f"var(--{name})"


def series(number: int) -> str:
    """Returns the colour of the series `number`, from 0; after eight they come again (with other symbols or dashes)."""
    return named(f"s{number % SERIES + 1}")


def symbol(number: int) -> str:
    """Returns a marker's shape for the group `number`: together with `series` 72 groups can be told apart."""
    return SYMBOLS[number % len(SYMBOLS)]


def css_variables(colours: dict[str, str]) -> str:
    """Returns the declarations of all colours, for one rule of the style sheet."""
    return " ".join(f"--{name}: {value};" for name, value in colours.items())
