"""Addresses and numbers that lead to a person, and numbers that do not."""

from collections import Counter

import pytest

from orpo_pipeline.data.rules.glance import glance
from orpo_pipeline.data.rules.personal import (
    CARD,
    EMAIL,
    IBAN,
    IBAN_LENGTHS,
    PHONE,
    luhn,
    mod_97,
    redact_personal_data,
)

EMAILS = [
    "jo@example.com",
    "jo.smith+news@mail.example.co.uk",
    "JO_SMITH%work@EXAMPLE.ORG",
    "j@a-b.io",
    "j\u00f6rg@m\u00fcller.de",
    "1234@qq.com",
]
NO_EMAILS = [
    "user@localhost",
    "@decorator",
    "@jo_smith on all channels",
    "@jo@mastodon.social",
    "a @ b.com",
    "x = A@B.T",
    "X@model.weight.transpose(0, 1)",
    "npm install react@18.2.0",
    "git@github.com:owner/name.git",
    "ssh root@server.example.com",
    "https://jo:secret@example.com/path",
    "https://jo@example.com",
    "3 apples @ 1.50 each",
    "maps/@40.71,-74.00,12z",
    "jo@example",
    "jo@.com",
    "@",
]
PHONES = [
    "+44 20 7946 0958",
    "+44 (0)20 7946 0958",
    "+442079460958",
    "+49 30/901820-15",
    "+49-30-901820",
    "+33 1 23 45 67 89",
    "+33.1.23.45.67.89",
    "+380 (99) 220 72 42",
    "+91\u00a098765\u00a043210",
    "+1 415 555 0132",
    "+1-415-555-0132",
    "+14155550132",
    "(415) 555-0132",
    "(415)555-0132",
    "(415) 555 0132",
    "415-555-0132",
    "415.555.0132",
    "415 555-0132",
    "415\u2011555\u20110132",
    "1-800-555-0199",
    "1 (800) 555-0199",
]
NO_PHONES = [
    "1999-2004",
    "from 1999 to 2004",
    "2004-10-23 12:30:45",
    "23.10.2004",
    "12:30:45",
    "100-200-3000",
    "200-300-4000",
    "211-555-0132",  # N11 is a service, no area
    "415-911-0132",
    "115-555-0132",
    "192.168.100.200",
    "10.0.0.1:8080",
    "2001:0db8:85a3:0000:0000:8a2e:0370:7334",
    "version 2.10.4.1200",
    "123-45-6789",
    "4155550132",
    "234 567 8901",
    "order A-415-555-0132",
    "415-555-01321",
    "415-555-0132-7",
    "+1 000 000 0000",
    "+1000000000",
    "+5 10 15 20 25 30",
    "+12345678",
    "x+442079460958",
    "+3.14159265358979",
    "+2.71828182845904e10",
    "1.602176634e-19",
    "+960397912423686",
    "3,141,592,653,589",
    "ISBN 978-0-306-40615-7",
    "ISBN 0-306-40615-2",
    "UTC+02:00",
    "1/2/3/4/5/6/7/8/9/10",
    "555-0132",
]
CARDS = [
    "4111 1111 1111 1111",
    "4111-1111-1111-1111",
    "4111111111111111",
    "5555 5555 5555 4444",
    "2223 0031 2200 3222",
    "3782 822463 10005",
    "378282246310005",
    "3056 930902 5904",
    "6011 1111 1111 1117",
    "3530 1113 3330 0000",
    "6200 0000 0000 0005",
]
NO_CARDS = [
    "4111 1111 1111 1112",  # fails Luhn
    "4111111111111112",
    "9111 1111 1111 1110",  # passes Luhn, issued by nobody
    "1234 5678 9012 3452",
    "4111 1111 11111111",
    "4111 1111-1111 1111",
    "4111 1111 1111 1111 1111 1111",  # a table of numbers
    "0.4111111111111111",
    "4111111111111111.5",
    "x4111111111111111",
    "1700000000000000",
    "9007199254740992",
    "18446744073709551616",
    "978-3-16-148410-0",
    "9783161484100",
    "20041023123045123",
]
IBANS = [
    "GB82 WEST 1234 5698 7654 32",
    "GB82WEST12345698765432",
    "DE89 3704 0044 0532 0130 00",
    "FR14 2004 1010 0505 0001 3M02 606",
    "BE68 5390 0754 7034",
    "NO93 8601 1117 947",
    "MT84MALT011000012345MTLCAST001S",
]
NO_IBANS = [
    "GB82 WEST 1234 5698 7654 33",  # wrong check digits
    "GB82WEST1234569876543",  # one short
    "GB82WEST123456987654321",
    "ZZ82 WEST 1234 5698 7654 32",
    "gb82 west 1234 5698 7654 32",
    "GB82 WES T123 4569 8765 432",
    "DE89-3704-0044-0532-0130-00",
    "AB12 3456 7890 1234",
    "BE68",
]
FOUND = [
    *((EMAIL, text) for text in EMAILS),
    *((PHONE, text) for text in PHONES),
    *((CARD, text) for text in CARDS),
    *((IBAN, text) for text in IBANS),
]


@pytest.mark.parametrize(("kind", "value"), FOUND)
def test_personal_data(kind: str, value: str) -> None:
    placeholder = {EMAIL: "[EMAIL]", PHONE: "[PHONE]", CARD: "[CARD]", IBAN: "[IBAN]"}[kind]
    for frame in ("{}", "Write to {}.", "({}), please", "a:{}\nb", "\u2018{}\u2019", "{} | x"):
        text = frame.format(value)
        assert glance([text]).personal_data
        assert redact_personal_data(text) == (frame.format(placeholder), Counter({kind: 1}))


@pytest.mark.parametrize("text", [*NO_EMAILS, *NO_PHONES, *NO_CARDS, *NO_IBANS])
def test_no_personal_data(text: str) -> None:
    for framed in (text, f"See {text}, please", f"{text}\nand more"):
        assert redact_personal_data(framed) == (framed, Counter())


def test_several_at_once() -> None:
    text = "Jo, jo@example.com, 415-555-0132 or +44 20 7946 0958; *_max@example.org_*"
    assert redact_personal_data(text) == (
        "Jo, [EMAIL], [PHONE] or [PHONE]; *_[EMAIL]_*",
        Counter({EMAIL: 2, PHONE: 2}),
    )


def test_summands_are_no_phone_numbers() -> None:
    for text in ("472547338\n+960397912423", "x\n  1,000\n  +960397912423"):
        assert redact_personal_data(text) == (text, Counter())
    assert redact_personal_data("Jo:\n+960397912423")[0] == "Jo:\n[PHONE]"


def test_what_follows_an_iban_stays() -> None:
    for text in ("BE68 5390 0754 7034 BIC KREDBEBB", "BE68 5390 0754 7034 1234"):
        assert redact_personal_data(text)[0] == "[IBAN]" + text[19:]


@pytest.mark.parametrize(
    ("digits", "valid"),
    [
        # From the right: every second digit doubled, the digits of a result above 9 added up.
        ("18", True),  # 8 + 2 = 10
        ("59", True),  # 9 + (1+0) = 10
        ("95", False),  # 5 + (1+8) = 14
        ("0", True),
        ("79927398713", True),  # 3+2+7+7+9+6+7+4+9+9+7 = 70
        ("79927398710", False),  # 67
    ],
)
def test_luhn(digits: str, valid: bool) -> None:
    assert luhn(digits) is valid


def test_mod_97() -> None:
    assert mod_97("98") == 1
    assert mod_97("A") == 10
    assert mod_97("1A") == 13  # 110 = 97 + 13
    assert mod_97("WEST12345698765432GB82") == 1  # ISO 13616's example, check digits last


def test_lengths_of_ibans() -> None:
    assert len(IBAN_LENGTHS) == 88
    assert {IBAN_LENGTHS[country] for country in ("DE", "GB")} == {22}
    assert (min(IBAN_LENGTHS.values()), max(IBAN_LENGTHS.values())) == (15, 33)


@pytest.mark.parametrize(
    "piece", ["a.", "a@", "1 ", "(415) ", "+44 ", "1234-", "DE89 ", "a@b.", "4111 1111 "]
)
def test_a_million_near_misses_are_searched_in_linear_time(piece: str) -> None:
    # A quadratic search would not come back within the time that the suite allows.
    redact_personal_data(piece * (1_000_000 // len(piece)) + "@ 123456789")
