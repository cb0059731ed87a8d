"""The table of a study is codir's one table; what is left here are its old names, until the callers have its own."""

from codir.table import DASH, Column, Value, escape_latex
from codir.table import Table as StudyTable

__all__ = ["DASH", "Column", "StudyTable", "Value", "escape_latex"]
