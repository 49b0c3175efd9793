"""What an object shows of itself: a card of a few facts and next calls, and the right name in place of a wrong one."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, ClassVar

from grokinterp.errors import nearest, one_line

_WIDTH = 79


def _breakable(value: str) -> str:
    """The value as HTML with <wbr>: JupyterLab removes overflow-wrap from notebooks that it does not trust."""
    return re.sub(r"([+,/])(?=\S)", r"\1<wbr>", escape(one_line(value)))


@dataclass(frozen=True)
class Card:
    """The text that stands for an object: at most 24 lines of 79 columns if there are few facts.

    >>> print(Card("Task add mod 5", {"inputs": "25"}, ["task.tokens"]))
    Task add mod 5
      inputs  25
      next: task.tokens

    Attributes:
        title: what the object is.
        facts: the values that matter, by label.
        calls: what to call next.
    """

    title: str
    facts: Mapping[str, str] = field(default_factory=dict)
    calls: Sequence[str] = ()

    def __str__(self) -> str:
        lines = textwrap.wrap(one_line(self.title), _WIDTH)
        width = max(map(len, self.facts), default=0) + 2
        for label, value in self.facts.items():
            text = f"  {label:<{width}}{one_line(value)}"
            lines += textwrap.wrap(text, _WIDTH, subsequent_indent=" " * (width + 2), max_lines=3)
        if self.calls:
            lines += textwrap.wrap(
                "next: " + ", ".join(self.calls), _WIDTH, initial_indent="  ", subsequent_indent=" " * 8
            )
        return "\n".join(lines)

    def to_html(self) -> str:
        """The card for a notebook; it takes its colors from the page, so that it suits a dark one too."""
        cell = "text-align:left;padding:2px 16px 2px 0;vertical-align:top;border:0;background:none"
        label = f"{cell};font-weight:normal;white-space:nowrap;opacity:.7"
        table = "margin:4px 0;border:0;border-collapse:collapse;color:inherit;font:inherit"
        rows = "".join(
            f'<tr style="background:none"><th style="{label}">{escape(name)}</th>'
            f'<td style="{cell};overflow-wrap:anywhere">{_breakable(value)}</td></tr>'
            for name, value in self.facts.items()
        )
        calls = ", ".join(f"<code>{escape(call)}</code>" for call in self.calls)
        following = f'<div style="opacity:.85">next: {calls}</div>' if calls else ""
        return (
            '<div style="border-left:3px solid #4477aa;padding:4px 12px;max-width:44em">'
            f'<div style="font-weight:bold">{escape(one_line(self.title))}</div>'
            f'<table style="{table}">{rows}</table>{following}</div>'
        )


class Displayed:
    """Base class of objects that show a card and name the right attribute where a wrong one is used."""

    _INSTEAD: ClassVar[Mapping[tuple[str, ...], str]] = {}  # see `unknown_attribute`

    def _card(self) -> Card:
        raise NotImplementedError

    def _repr_html_(self) -> str:
        return self._card().to_html()

    if not TYPE_CHECKING:  # type checkers would take any attribute

        def __getattr__(self, name):
            raise unknown_attribute(self, name, self._INSTEAD)


class Carded(Displayed):
    """`Displayed` whose card is also its repr, because the fields do not fit on a screen."""

    def __repr__(self) -> str:
        return str(self._card())


def unknown_attribute(owner: object, name: str, instead: Mapping[tuple[str, ...], str]) -> AttributeError:
    """The error for an attribute that an object does not have.

    Args:
        owner: the object.
        name: the attribute.
        instead: by names that other libraries have, what to write in their place.
    """
    kind = type(owner)
    if hasattr(kind, name):  # a property of this name raised an AttributeError of its own
        object.__getattribute__(owner, name)
    if name.startswith("_"):
        return AttributeError(f"{kind.__name__!r} object has no attribute {name!r}")
    hint = instead_of(name, instead) or nearest(name, [n for n in dir(owner) if not n.startswith("_")])
    return AttributeError(f"{kind.__name__} has no attribute {name!r}: {hint}")


def instead_of(name: str, instead: Mapping[tuple[str, ...], str]) -> str | None:
    """The end of a message about a name that is not here but has a known replacement; None if it has none."""
    return next((f"use {call}" for names, call in instead.items() if name in names), None)
