"""One pass over a JSON file of any size that holds one element at a time and says where each element lies.

Annotation files reach gigabytes, list their sections in any order and their annotations in any order of videos. With
the place of every annotation known, those of one video are read back from the file when its turn comes: nothing has to
be sorted, copied or kept.
"""

import io
import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

_CHUNK = 1 << 20  # bytes
_SPACE = re.compile(r"[ \t\r\n]*")
_LONGEST_TOKEN = 16  # characters of a literal or an escape that the end of the window may have cut
_decoder = json.JSONDecoder()


class Element(NamedTuple):
    """A value of the outermost object, or one element of a list in it.

    Attributes:
        section: its key in the outermost object.
        position: its place in the list, from 0; None for the value itself, which is `[]` for any list: the elements
            follow one by one.
        value: what it holds. Characters beyond ASCII are not decoded; [`read_element`] gives the exact value.
        start, stop: first byte in the file and the byte after the last.
    """

    section: str
    position: int | None
    value: Any
    start: int
    stop: int


def scan_json(path: str | Path) -> Iterator[Element]:
    """
    The values of the outermost object of a file, in file order; lists element by element.

    Memory is bounded by the largest element.

    Raises:
        ValueError: when the file is not JSON, ends too early, or holds no object.
    """
    with open_json(path) as file:
        window = _Window(file, path)
        if window.peek() == "[":
            raise ValueError(
                f"{path} holds a list; expected an object with annotations and categories: a list is the format of "
                "results, give the annotation file they belong to"
            )
        window.take("{")
        closed = window.skip("}")
        while not closed:
            section, start, _ = window.value()
            if not isinstance(section, str):
                raise window.error("expected a key in quotes", start)
            window.take(":")
            if window.peek() == "[":
                yield from _scan_list(window, section)
            else:
                value, start, stop = window.value()
                yield Element(section, None, value, start, stop)
            closed = window.take(",}") == "}"
        if window.peek():
            raise window.error("expected the end of the file")


def _scan_list(window: "_Window", section: str) -> Iterator[Element]:
    window.take("[")
    yield Element(section, None, [], window.place, window.place)
    closed, position = window.skip("]"), 0
    while not closed:
        value, start, stop = window.value()
        yield Element(section, position, value, start, stop)
        position += 1
        closed = window.take(",]") == "]"


def read_element(file: BinaryIO, start: int, stop: int) -> Any:
    """
    The value that lies at the bytes `start` to `stop` of a file of [`open_json`].

    Raises:
        ValueError: when it is not UTF-8.
    """
    file.seek(start)
    return json.loads(decode(file.read(stop - start), start))


def open_json(path: str | Path) -> BinaryIO:
    """
    A file of JSON in bytes of UTF-8, whatever Unicode it is written in. All of it is in memory if that is UTF-16 or
    UTF-32, as some programs of Windows write.

    Raises:
        FileNotFoundError: when there is none.
        ValueError: when it is cut within a character.
    """
    file = open(path, "rb")
    encoding = json.detect_encoding(file.read(4))
    file.seek(0)
    if encoding.startswith("utf-8"):
        return file
    with file:
        try:
            return io.BytesIO(file.read().decode(encoding, "surrogatepass").encode("utf-8", "surrogatepass"))
        except UnicodeError as error:
            raise ValueError(
                f"{path} seems to be {encoding.upper()}, but is not ({error}); save it in UTF-8"
            ) from error


def decode(content: bytes, start: int = 0) -> str:
    """
    Bytes of UTF-8, with a byte order mark or without, which begin at byte `start` of a file.

    Raises:
        ValueError: when they are in another encoding, of which there is no telling.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        near = content[max(error.start - 20, 0) : error.start + 20].decode("latin-1")
        raise ValueError(
            f"byte {start + error.start} is not UTF-8, near {near!r}; expected JSON in UTF-8: save the file in this "
            "encoding (it may be in that of Windows, or Latin-1)"
        ) from error


class _Window:
    """The part of the file that is being decoded. Bytes map to characters one to one, so that places are bytes."""

    def __init__(self, file: BinaryIO, path: str | Path):
        self.file, self.path = file, path
        self.text, self.position, self.offset = "", 0, 0
        if file.read(len(BOM_UTF8)) == BOM_UTF8:
            self.offset = len(BOM_UTF8)
        file.seek(self.offset)

    @property
    def place(self) -> int:
        return self.offset + self.position

    def peek(self) -> str:
        """The next character that is no white space, `""` at the end of the file."""
        while True:
            self.position = _SPACE.match(self.text, self.position).end()
            if self.position < len(self.text):
                return self.text[self.position]
            if not self._extend():
                return ""

    def take(self, expected: str) -> str:
        """Pass the next character, which is one of `expected`."""
        character = self.peek()
        if not character or character not in expected:
            raise self.error(f"expected {' or '.join(expected)}")
        self.position += 1
        return character

    def skip(self, character: str) -> bool:
        """Pass the next character if it is this one."""
        found = self.peek() == character
        self.position += found
        return found

    def value(self) -> tuple[Any, int, int]:
        """The next value, with its first byte and the byte after its last."""
        self.peek()
        while True:
            try:
                value, stop = _decoder.raw_decode(self.text, self.position)
            except json.JSONDecodeError as error:
                # Only the end of the window is to blame for what ends there, and for strings that never end.
                cut = error.pos + _LONGEST_TOKEN > len(self.text) or error.msg.startswith("Unterminated string")
                place = self.offset + error.pos
                if not cut or not self._extend():
                    raise self.error(error.msg, place) from None
            except RecursionError:
                raise self.error("it is nested too deeply") from None
            except ValueError as error:
                raise self.error(str(error)) from None
            else:
                # A number may go on behind the window.
                if stop == len(self.text) and self._extend():
                    continue
                start, self.position = self.place, stop
                return value, start, self.place

    def error(self, message: str, place: int | None = None) -> ValueError:
        place = self.place if place is None else place
        near = self.text[place - self.offset :][:40]
        if not near.strip():
            return ValueError(f"{self.path} ends in the middle, at byte {place}: was it copied completely?")
        return ValueError(f"{self.path} is not JSON at byte {place}, near {near!r}: {message}")

    def _extend(self) -> bool:
        rest = self.text[self.position :]
        data = self.file.read(max(_CHUNK, len(rest)))
        self.offset += self.position
        self.text, self.position = rest + data.decode("latin-1"), 0
        return bool(data)
