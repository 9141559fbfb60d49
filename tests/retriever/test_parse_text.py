"""Text and HTML in the encodings of the world; damage is refused rather than read as gibberish."""

import pytest

from refdesk.retriever.errors import UnreadableDocument
from refdesk.retriever.parse import parse

_FRENCH = "Le café était fermé, à côté de l'hôtel où il a vécu. "


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", "café"),
        ("cp1252", "It’s “here”."),
        ("cp1252", "It cost £50 in all."),
        ("cp1250", "Zażółć gęślą jaźń, proszę państwa. Dziękuję bardzo. " * 20),
        ("cp1251", "Привет, мир. Это обычный русский текст. " * 20),
        ("koi8_r", "Привет, мир. Это обычный русский текст. " * 20),
        ("cp932", "吾輩は猫である。名前はまだ無い。" * 20),
        ("gb18030", "我们都是中国人，今天天气很好。" * 20),
    ],
)
def test_legacy_encodings_are_told_apart(encoding: str, text: str) -> None:
    assert parse(text.encode(encoding), "a.txt").text == text


@pytest.mark.parametrize("before", [20, 8_000])
@pytest.mark.parametrize("after", [0, 20])
def test_damaged_utf8_is_refused_with_the_place_of_the_damage(before: int, after: int) -> None:
    head = (_FRENCH * before).encode()
    with pytest.raises(UnreadableDocument, match=rf"wrong encoding.*byte {len(head)}\b"):
        parse(head + b"\xff" + (_FRENCH * after).encode(), "a.txt")


def test_the_byte_of_a_wrong_encoding_behind_a_mark_is_told() -> None:
    with pytest.raises(UnreadableDocument, match=r"wrong encoding.*byte 6"):
        parse(b"\xef\xbb\xbfcaf\xe9 and more", "a.txt")


def test_binary_without_zero_bytes_is_refused() -> None:
    content = bytes(range(1, 256)) * 20
    for name in ("a.txt", "a.md", "a.html"):
        with pytest.raises(UnreadableDocument, match=r"binary|wrong encoding"):
            parse(content, name)


def test_coloured_logs_and_form_feeds_are_text() -> None:
    text = "\x1b[31mERROR\x1b[0m bad thing\n" * 20 + "\x0cpage two"
    assert parse(text.encode(), "a.log").text == text


@pytest.mark.parametrize("head", ["", *(f"<meta charset={label}>" for label in ("iso-8859-1", "no-such", "idna"))])
def test_html_without_a_true_charset_is_read_as_windows_1252(head: str) -> None:
    page = f"<html><head>{head}</head><body><p>It’s “quoted” – café.</p></body></html>"
    assert parse(page.encode("cp1252"), "a.html").text == "It’s “quoted” – café."


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "shift_jis"])
def test_html_charsets_are_honoured(encoding: str) -> None:
    charset = encoding.removesuffix("-sig")
    page = f'<html><head><meta charset="{charset}"></head><body><p>日本語のテキスト</p></body></html>'
    assert parse(page.encode(encoding), "a.html").text == "日本語のテキスト"


def test_one_bad_byte_in_a_page_is_replaced() -> None:
    page = b"<meta charset=utf-8><p>" + _FRENCH.encode() + b"\xff end</p>"
    assert parse(page, "a.html").text == _FRENCH + "\ufffd end"


def test_a_title_can_be_stored_whatever_the_name() -> None:
    assert parse(b"text", "\udc80\x00x.txt").title == "\ufffd\ufffdx"
