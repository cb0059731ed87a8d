"""What a run says of the user's machine, found before it is published: paths, the host's name, keys.

Settings and environment are read as what they are (YAML, JSON, a command line), so that a path with spaces is found
whole; what was found there is then replaced in the model card too. In prose a path ends at a space.
"""

from __future__ import annotations

import html
import json
import re
import shlex
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from codir.config.yaml_text import dump_yaml, read_yaml
from codir.errors import RunError
from codir.markdown import inline

LOCAL = "<local path>"
HOST = "<host>"
TOKEN = "<token>"

_END = r"""\s"'`<>|*?,;()\[\]{}"""
_POSIX = re.compile(rf"(?<![\w.:/~>\\<])/[^{_END}/:]+(?:/[^{_END}/:]+)+/?|(?<=file://)/[^{_END}]+")
_WINDOWS = re.compile(rf"(?<![\w/])[A-Za-z]:[\\/][^{_END}]+")
_OTHERS_HOME = re.compile(rf"(?<![\w/])~\w[\w.-]*/[^{_END}]+")
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}\b")
_CREDENTIALS = re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)")
# Folders that are on every machine alike, and words that start with a slash but are no paths.
_NOBODYS = re.compile(r"/(?:usr|bin|etc|dev|proc|sys|lib|opt/conda)(?:/|$)")
# Parts of a model's own files in which text is data: class names and tokens.
_DATA = frozenset({"id2label", "label2id", "added_tokens_decoder", "extra_special_tokens", "chat_template"})


@dataclass(frozen=True)
class Redaction:
    """One replacement.

    Attributes:
        file: the file as it is named in the repository.
        line: where in it, from 1; None where that makes no sense.
        found: what stands there on this machine.
        becomes: what is published in its place.
    """

    file: str
    line: int | None
    found: str
    becomes: str


class Redactor:
    """Replaces what is personal in the files of one folder; `redactions` says what it replaced.

    Args:
        folder: the folder to be published; paths in it become relative to its parent.
        others: further folders that are published with it.
        home: of the user.
        host: name of the machine.
    """

    def __init__(
        self,
        folder: Path,
        others: Sequence[Path] = (),
        home: Path | None = None,
        host: str | None = None,
    ):
        self.redactions: list[Redaction] = []
        self._own = [
            form for each in (folder, *others) for form in dict.fromkeys((each.absolute(), each.resolve()))
        ]
        self._home = str(home or Path.home()).rstrip("/\\")
        name = (host if host is not None else socket.gethostname()).split(".")[0]
        # a host called `model` is no secret, and the word stands everywhere
        self._host = (
            re.compile(rf"(?<![\w-]){re.escape(name)}(?:\.[\w.-]+)?(?![\w-])") if _telling(name) else None
        )
        self._known: dict[str, str] = {}  # whole paths and command lines -> what they become
        self._commands: set[str] = set()
        self._configuration: tuple[str, str] | None = None  # text of codir.yaml -> what it becomes

    def yaml(self, file: str, text: str) -> str:
        """Returns the text of a YAML file without what is personal; unchanged if there is nothing."""
        value, _ = read_yaml(text, file)
        clean = self._walk(value, self._noting(file, text))
        redacted = text if clean == value else dump_yaml(clean)
        self._configuration = (text.rstrip(), redacted.rstrip())
        return redacted

    def json(self, file: str, text: str) -> str:
        """Likewise for a JSON file."""
        value = _parse(file, text)
        clean = self._walk(value, self._noting(file, text))
        return text if clean == value else json.dumps(clean, indent=2, ensure_ascii=False) + "\n"

    def model_json(self, file: str, text: str) -> str:
        """Likewise for a JSON file of the model itself, in which only whole values that are paths are replaced."""
        value = _parse(file, text)
        clean = self._walk(value, self._noting(file, text), whole=True)
        return text if clean == value else json.dumps(clean, indent=2, ensure_ascii=False) + "\n"

    def markdown(self, file: str, text: str) -> str:
        """Returns Markdown without what is personal; placeholders outside of code are escaped.

        Read the YAML and JSON files first: what was found there is looked for here.
        """
        if self._configuration is not None and self._configuration[0] != self._configuration[1]:
            before, after = self._configuration
            if before in text:
                self._note(file, text, before.splitlines()[0], "the configuration, as in codir.yaml", LOCAL)
                text = text.replace(before, after)
        lines, fence = [], ""
        for number, line in enumerate(text.split("\n"), 1):
            note = self._noting(file, None, number)
            mark = re.match(r"\s*(`{3,}|~{3,})", line)
            if mark is not None and (not fence or mark[1].startswith(fence)):
                fence = "" if fence else mark[1]
            if fence or mark is not None:
                lines.append(self._text(line, note))
                continue
            pieces = re.split(r"(`[^`]*`)", line)
            lines.append(
                "".join(
                    self._text(piece, note) if piece.startswith("`") else self._prose(piece, note)
                    for piece in pieces
                )
            )
        return "\n".join(lines)

    def literal(self, file: str, text: str) -> str:
        """Replaces only what is surely personal: paths found before, and everything under the home folder.

        For files with programs inside, where a slash may mean something else.
        """
        clean = self._sure(text, self._noting(file, text))
        # brackets would make a tag of it in HTML, their escaped form would be shown as it is in a program's data
        for placeholder in (LOCAL, HOST, TOKEN):
            if placeholder not in text:
                clean = clean.replace(placeholder, f"({placeholder[1:-1]})")
        return clean

    def check(self, file: str, text: str) -> None:
        """Raises `RunError` where the home folder is still named."""
        for number, line in enumerate(text.split("\n"), 1):
            if len(self._home) > 1 and re.search(rf"{re.escape(self._home)}(?![\w-])", line):
                raise RunError(
                    f"{file}, line {number}, names your home folder ({self._home}) in a way codir does not know how "
                    "to replace. Change that line by hand."
                )

    def path(self, text: str) -> str:
        """Returns what stands for an absolute path: relative in the published folder, else `<local path>/NAME`."""
        pure = (
            PureWindowsPath(text) if _WINDOWS.match(text) or text.startswith("\\\\") else PurePosixPath(text)
        )
        for own in self._own:
            if str(pure) == str(own):
                return own.name
            if str(pure).startswith(f"{own}/"):
                return f"{own.name}/{str(pure)[len(str(own)) + 1 :]}"
        user = PurePosixPath(self._home.replace("\\", "/")).name
        holds_home = f"{self._home}/".startswith(f"{str(pure).rstrip('/')}/")
        someones_home = bool(re.fullmatch(r"(?:[a-z]:)?/(?:home|users)(?:/[^/]*)?", pure.as_posix().lower()))
        named = len(user) > 2 and user != "root" and user.lower() in pure.name.lower()
        return LOCAL if holds_home or someones_home or named or not pure.name else f"{LOCAL}/{pure.name}"

    # The rest works on parts of a text; `note` is told of every replacement.

    def _walk(self, value: Any, note: _Note, key: str = "", whole: bool = False) -> Any:
        if isinstance(value, dict):
            return {
                (name if whole or not isinstance(name, str) else self._text(name, note)): (
                    inner if whole and name in _DATA else self._walk(inner, note, str(name), whole)
                )
                for name, inner in value.items()
            }
        if isinstance(value, list):
            return [self._walk(inner, note, key, whole) for inner in value]
        if not isinstance(value, str):
            return value
        if _is_path(value) and (not whole or self._on_this_machine(value)):
            return self._whole(value, note)
        if whole:
            return value
        if key == "command" and " " in value:
            return self._command(value, note)
        return self._text(value, note)

    def _whole(self, text: str, note: _Note) -> str:
        becomes = self._known.setdefault(text, self.path(text))
        note(text, becomes)
        return becomes

    def _command(self, text: str, note: _Note) -> str:
        try:
            words = shlex.split(text)
        except ValueError:  # an open quotation mark: no command line of ours
            return self._text(text, note)
        clean = []
        for word in words:
            pieces = re.split(r"([=,])", word)
            # a comma may be part of a path, too: only what starts like one again is another path
            clean.append(
                "".join(self._whole(p, note) if _is_path(p) else self._text(p, note) for p in pieces)
            )
        if clean == words:
            return text
        becomes = shlex.join(clean)
        for start in ("", "__main__.py "):  # cards call it `codir`
            if text.startswith(start):
                form = f"codir {text[len(start) :]}" if start else text
                self._known[form] = f"codir {becomes[len(start) :]}" if start else becomes
                self._commands.add(form)
        return becomes

    def _on_this_machine(self, text: str) -> bool:
        try:
            return text.startswith(self._home) or bool(_WINDOWS.match(text)) or Path(text).exists()
        except OSError:
            return False

    def _text(self, text: str, note: _Note) -> str:
        text = self._sure(text, note)
        for pattern in (_POSIX, _WINDOWS, _OTHERS_HOME):
            text = pattern.sub(lambda match: self._found(match[0], note), text)
        return text

    def _found(self, found: str, note: _Note) -> str:
        path = found.rstrip(".")
        if _NOBODYS.match(path):
            return found
        becomes = self.path(path.replace("\\_", "_") if path.startswith("/") else path)
        note(path, becomes)
        return becomes + found[len(path) :]

    def _sure(self, text: str, note: _Note) -> str:
        for known in sorted(self._known, key=len, reverse=True):
            for form in dict.fromkeys((known, inline(known), html.escape(known))):
                if form in text:
                    if known in self._commands:
                        note("the command, as in environment.json", LOCAL)
                    else:
                        note(known, self._known[known])
                    text = text.replace(form, self._known[known])
        if len(self._home) > 1 and self._home in text:
            below = re.compile(rf"{re.escape(self._home)}(?:[\\/][^{_END}]*)?(?![\w-])")
            text = below.sub(lambda match: self._found(match[0], note), text)
        for pattern, becomes in ((_TOKEN, TOKEN), (_CREDENTIALS, TOKEN), (self._host, HOST)):
            if pattern is not None and (match := pattern.search(text)):
                note(match[0] if becomes != TOKEN else f"{match[0][:6]}...", becomes)
                text = pattern.sub(becomes, text)
        return text

    def _prose(self, text: str, note: _Note) -> str:
        clean = self._text(text, note)
        for placeholder in (LOCAL, HOST, TOKEN):
            if placeholder not in text:
                clean = clean.replace(placeholder, inline(placeholder))
        return clean

    def _noting(self, file: str, text: str | None, line: int | None = None) -> _Note:
        def note(found: str, becomes: str) -> None:
            if text is not None:
                self._note(file, text, found, found, becomes)
            elif (entry := Redaction(file, line, found, becomes)) not in self.redactions:
                self.redactions.append(entry)

        return note

    def _note(self, file: str, text: str, needle: str, found: str, becomes: str) -> None:
        place = text.find(needle)
        entry = Redaction(file, text.count("\n", 0, place) + 1 if place >= 0 else None, found, becomes)
        if entry not in self.redactions:
            self.redactions.append(entry)


_Note = Callable[[str, str], None]


def _is_path(text: str) -> bool:
    """Whether a whole value is an absolute path, of any system."""
    if "\n" in text or _NOBODYS.match(text):
        return False
    if text.startswith("/") and not text.startswith("//"):
        return len(PurePosixPath(text).parts) > 2
    return bool(re.match(r"[A-Za-z]:[\\/]\S|\\\\\w|~\w[\w.-]*/", text))


def _telling(host: str) -> bool:
    return len(host) > 3 and host != "localhost" and bool(re.search(r"[\d-]", host))


def _parse(file: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise RunError(f"{file} is damaged and cannot be read as JSON: {error}") from error
