"""Data that lead to a person: e-mail addresses, phone numbers, payment cards, bank accounts.

All addresses are replaced, those under example.com too: nothing is lost, and the model does not
learn to make addresses up. Numbers must prove themselves, by a check digit or by the form in which
people write them; a bare row of ten digits, or a national number outside North America, is not
taken for a phone number.
"""

import re
from collections import Counter
from collections.abc import Callable

EMAIL, PHONE, CARD, IBAN = "e-mail address", "phone number", "card number", "IBAN"
PLACEHOLDERS = {EMAIL: "[EMAIL]", PHONE: "[PHONE]", CARD: "[CARD]", IBAN: "[IBAN]"}

IsReal = Callable[[re.Match[str]], bool]

# e-mail addresses

_LETTER = "A-Za-z0-9\u00c0-\u024f"
# The possessive parts begin once a run and never give back, which keeps the search linear.
ADDRESS = re.compile(
    rf"(?<![{_LETTER}.%+_@-])[.%+_-]*+(?P<value>(?P<local>[{_LETTER}.%+_-]++)@"
    rf"(?:[{_LETTER}](?:[{_LETTER}-]{{0,61}}[{_LETTER}])?\.(?=[{_LETTER}])){{1,8}}+"
    rf"[A-Za-z]{{2,24}})(?![{_LETTER}@(]|_[{_LETTER}])"
)
NOBODY = frozenset({"git", "hg", "root", "ubuntu", "ec2-user"})
"""`git@github.com:owner/name.git` and log-ins on servers: accounts of programs, not of people."""
CREDENTIALS = re.compile(r"://[^\s/@]{0,200}\Z")


def _is_address(match: re.Match[str]) -> bool:
    start = match.start("value")
    before = match.string[max(0, start - 210) : start]
    return match["local"].lower() not in NOBODY and CREDENTIALS.search(before) is None


# bank accounts (ISO 13616)

# Countries by the length of their IBAN, from ISO 13616's registry.
_COUNTRIES = {
    15: "NO",
    16: "BE",
    18: "DK FI FK FO GL NL SD",
    19: "MK SI",
    20: "AT BA EE KZ LT LU MN XK",
    21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA",
    23: "AE GI IL IQ OM SO TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST",
    26: "IS TR",
    27: "BI DJ FR GR IT MC MR SM",
    28: "AL AZ BY CY DO GT HU LB NI PL SV",
    29: "BR EG PS QA UA",
    30: "JO KW MU YE",
    31: "MT SC",
    32: "LC",
    33: "RU",
}
IBAN_LENGTHS = {country: n for n, names in _COUNTRIES.items() for country in names.split()}
ACCOUNT = re.compile(
    rf"(?<![A-Za-z0-9])(?:{'|'.join(IBAN_LENGTHS)})[0-9]{{2}}(?: ?[A-Z0-9]{{1,4}}){{3,8}}+"
)


def mod_97(digits: str) -> int:
    """Remainder of a number with letters for two digits each: A is 10, Z is 35."""
    return int("".join(str(int(character, 36)) for character in digits)) % 97


def account_at_start(text: str) -> str:
    """The IBAN that the text begins with, written in one or in groups of four, or nothing."""
    length = IBAN_LENGTHS.get(text[:2], 0)
    for end in (length, length + (length - 1) // 4):
        candidate, after = text[:end], text[end : end + 1]
        compact = candidate.replace(" ", "")
        grouped = " ".join(compact[i : i + 4] for i in range(0, length, 4))
        if (
            length
            and len(compact) == length
            and candidate in (compact, grouped)
            and re.fullmatch("[A-Z0-9]+", compact)
            and not after.isalnum()
            and mod_97(compact[4:] + compact[:4]) == 1
        ):
            return candidate
    return ""


# payment cards (ISO/IEC 7812)

_SEPARATOR = " .\\-\u00a0\u2007\u2009\u202f\u2010-\u2013"
NUMBER = re.compile(
    r"(?<![\w.,+-])(?<![0-9][ \u00a0])(?P<value>[0-9]{14,19}"
    r"|[0-9]{4}(?P<gap>[ \u00a0\u2011-])[0-9]{4}(?P=gap)[0-9]{4}(?P=gap)[0-9]{4}"
    r"|[0-9]{4}(?P<gap2>[ \u00a0\u2011-])[0-9]{6}(?P=gap2)[0-9]{4,5})"
    r"(?![\w+]|[.,-][0-9]|[ \u00a0][0-9]{4}(?![0-9]))"
)
# Visa; Mastercard; American Express; Diners; Discover; JCB; UnionPay
ISSUED = re.compile(
    r"4\d{15}|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|3(?:0[0-5]|[68]\d)\d{11}|6(?:011|4[4-9]\d|5\d\d)\d{12}|35(?:2[89]|[3-8]\d)\d{12}"
    r"|62\d{14,17}"
)


def luhn(digits: str) -> bool:
    """Whether the last digit is the right check digit (ISO/IEC 7812-1, annex B)."""
    doubled = [sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2]]
    return (sum(doubled) + sum(int(digit) for digit in digits[-1::-2])) % 10 == 0


def _is_card(match: re.Match[str]) -> bool:
    digits = _digits(match["value"])
    return ISSUED.fullmatch(digits) is not None and luhn(digits)


# phone numbers

CALLING_CODE = (
    r"(?:7|2[07]|2[1-69][0-9]|3[0-469]|3[578][0-9]|4[013-9]|42[0-9]|5[1-8]|5[09][0-9]|6[0-6]"
    r"|6[7-9][0-9]|8[1246]|8[0578][0-9]|9[0-58]|9[679][0-9])"
)
INTERNATIONAL = re.compile(
    rf"(?<![\w+])(?P<value>\+(?:{CALLING_CODE})"
    rf"(?:(?:[{_SEPARATOR}/]|[ \u00a0]?\(|\)[{_SEPARATOR}]?)?[0-9]){{6,13}})(?!\w|[.,][0-9])"
)
NORTH_AMERICAN = re.compile(
    rf"(?<![\w+-])(?<![0-9][.,])(?P<value>(?:(?P<prefix>\+?1)[{_SEPARATOR}]?)?"
    r"(?:\((?P<area_in>[2-9][0-8][0-9])\) ?|(?P<area>[2-9][0-8][0-9])"
    rf"(?P<gap>[{_SEPARATOR}]?))(?P<exchange>[2-9][0-9]{{2}})(?P<gap2>[{_SEPARATOR}]?)[0-9]{{4}})"
    r"(?!\w|[.,-][0-9])"
)
NO_AREA = frozenset({"200", "300", "400", "211", "311", "411", "511", "611", "711", "811", "911"})
FEWEST_DIGITS = 9
MOST_DIGITS, MOST_UNGROUPED = 15, 13  # E.164 allows 15; longer rows of digits are sums and ids
SUMMAND_ABOVE = re.compile(r"(?:\A|\n)[ \t]*[0-9.,]+[ \t]*\n[ \t]*\Z")


def _is_international(match: re.Match[str]) -> bool:
    number = match["value"]
    digits = len(_digits(number))
    if digits < len(number) - 1:
        # `+3.14159265358979` is a number; two dots and more are somebody's way to group digits.
        decimal = number.count(".") == 1 and digits == len(number) - 2
        return FEWEST_DIGITS <= digits <= MOST_DIGITS and not decimal
    above = match.string[max(0, match.start() - 40) : match.start()]
    return FEWEST_DIGITS <= digits <= MOST_UNGROUPED and not SUMMAND_ABOVE.search(above)


def _is_north_american(match: re.Match[str]) -> bool:
    area = match["area_in"] or match["area"]
    if area in NO_AREA or match["exchange"].endswith("11"):
        return False
    if match["prefix"] == "+1":
        return True
    # Three numbers in a row are no phone number; brackets, dots or dashes make it one.
    bracketed = match["area_in"] is not None
    spaces = not bracketed and (match["gap"] + match["gap2"]).isspace()
    return bool(match["gap2"] and (bracketed or match["gap"])) and not spaces


def _digits(text: str) -> str:
    return re.sub(r"[^0-9]", "", text)


# all of them

LONG_NUMBER = re.compile(rf"[0-9](?:[{_SEPARATOR}()/]{{0,2}}[0-9]){{8}}")
"""In every account, card and phone number, and seldom elsewhere; quick to look for."""


def redact_personal_data(text: str) -> tuple[str, Counter[str]]:
    """The text with `[EMAIL]`, `[IBAN]`, `[CARD]`, `[PHONE]`, and how many there were of each."""
    found: Counter[str] = Counter()
    if "@" in text:
        text = _replace(ADDRESS, EMAIL, _is_address, text, found)
    if not LONG_NUMBER.search(text):
        return text, found
    text = _replace_accounts(text, found)
    text = _replace(NUMBER, CARD, _is_card, text, found)
    if "+" in text:
        text = _replace(INTERNATIONAL, PHONE, _is_international, text, found)
    text = _replace(NORTH_AMERICAN, PHONE, _is_north_american, text, found)
    return text, found


def _replace(
    pattern: re.Pattern[str], kind: str, is_real: IsReal, text: str, found: Counter[str]
) -> str:
    def replacement(match: re.Match[str]) -> str:
        if not is_real(match):
            return match.group()
        found[kind] += 1
        before = match.string[match.start() : match.start("value")]
        return before + PLACEHOLDERS[kind]

    return pattern.sub(replacement, text)


def _replace_accounts(text: str, found: Counter[str]) -> str:
    def replacement(match: re.Match[str]) -> str:
        start = match.start()
        account = account_at_start(text[start : match.end() + 1])
        if not account:
            return match.group()
        found[IBAN] += 1
        return PLACEHOLDERS[IBAN] + match.group()[len(account) :]

    return ACCOUNT.sub(replacement, text)
