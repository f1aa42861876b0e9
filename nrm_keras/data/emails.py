"""What a reader sees of an email."""

from __future__ import annotations

import email
import email.header
import email.message
import re
from html.parser import HTMLParser

_HIDDEN = ("script", "style")
_ENCODED = ("quoted-printable", "base64", "x-uuencode", "uuencode", "uue", "x-uue")


def words_of(source: str) -> str:
    """Subject and body of an email's source; of HTML what is shown, of attachments nothing.

    Example:
        >>> words_of("Subject: Hello\\nContent-Type: text/html\\n\\n<p>to <b>you</b>")
        'Hello\\nto you'
    """
    message = email.message_from_string(source)
    parts = [_content(part) for part in message.walk() if part.get_content_maintype() == "text"]
    return "\n".join([_subject(message), *parts]).strip()


def _subject(message: email.message.Message) -> str:
    parts = []
    try:
        for content, charset in email.header.decode_header(message.get("Subject", "")):
            parts.append(_decoded(content, charset) if isinstance(content, bytes) else content)
    except email.errors.HeaderParseError:
        return str(message["Subject"])
    return " ".join("".join(parts).split())


def _content(part: email.message.Message) -> str:
    encoding = str(part.get("Content-Transfer-Encoding", "")).strip().lower()
    if encoding in _ENCODED:
        text = _decoded(part.get_payload(decode=True) or b"", part.get_content_charset())
    else:  # characters already
        text = str(part.get_payload() or "")
    return _shown(text) if part.get_content_subtype() == "html" else text


def _decoded(content: bytes, charset: str | None) -> str:
    try:
        return content.decode(charset or "utf-8", "replace")
    except (LookupError, ValueError):  # a charset that doesn't exist, as spam likes to name
        return content.decode("latin-1")


def _shown(html: str) -> str:
    parser = _Shown()
    parser.feed(html)
    parser.close()
    return re.sub(r"\s+", " ", " ".join(parser.parts)).strip()


class _Shown(HTMLParser):
    def __init__(self):
        super().__init__()
        self.parts: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag, attrs):
        self._hidden += tag in _HIDDEN

    def handle_endtag(self, tag):
        self._hidden -= tag in _HIDDEN and self._hidden > 0

    def handle_data(self, data):
        if not self._hidden:
            self.parts.append(data)
