"""Find personal data and secrets, which must not be in telemetry, by their formats.

The formats are listed in the rules LOG-003, MET-008, RES-010 and SPA-006 of the Instrumentation Score:
https://github.com/instrumentation-score/spec/tree/main/rules
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

NAMES = r"pass(?:word|wd|phrase)|secret|token|credentials?|(?:api|access|private)[_-]?key|ssn"
HEALTH = r"diagnosis|patient[_-]?id|insurance[_-]?id"
MONEY = r"tax[_-]?id|account[ _-]?number|iban"

FORMS = {
    "an email address": re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}"),
    "a social security number": re.compile(r"(?<![\w.-])\d{3}-\d{2}-\d{4}(?![\w.-])"),
    "a credential": re.compile(
        r"\bBearer\s+[A-Za-z0-9._~+/=-]{8,}|\bsk-[A-Za-z0-9_-]{10,}|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{20,}"
        r"|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}|-----BEGIN [A-Z ]*PRIVATE KEY-----"
    ),
}
PAIR = re.compile(rf"(?i)(?:^|[^A-Za-z])[\w.-]*?({NAMES}|{HEALTH}|{MONEY})[\"']?\s*[=:]\s*[\"']?([^\s\"'&,;}})]+)")
KEY = re.compile(rf"(?i)(?:^|[._-])(?:{NAMES}|{HEALTH}|{MONEY})(?:$|[._-])")
HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
CARD = re.compile(r"(?<![\w.-])\d(?:[ -]?\d){12,18}(?![\w.-])")
ACCOUNT = re.compile(r"(?<![\w.-])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![\w.-])")
NO_VALUE = re.compile(r"(?i)[\[<(*]*(?:redacted|masked|hidden|none|null|\*+|x{3,})\W*|[?*%$:<{(\[].*")
"""Words that replace a value: a mark that it was removed, or a placeholder in a statement or a template."""

OPAQUE = frozenset(("enduser.id", "enduser.pseudo.id", "gen_ai.token.type"))
"""Keys whose values the rules ignore, or that do not name a secret."""


def found(key: str, value: object) -> Iterator[str]:
    """Yield the formats found in an attribute, or in a text with no key, including nested values."""
    if key in OPAQUE or isinstance(value, bool | float) or value is None:
        return
    if isinstance(value, Mapping):
        for inner, each in value.items():
            yield from found(str(inner), each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from found(key, each)
    elif text := str(value):
        yield from _in_text(key, text)


def of_attributes(attributes: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the key and the format of each attribute that contains such data."""
    for key, value in attributes.items():
        yield from ((key, form) for form in found(key, value))


def _in_text(key: str, text: str) -> Iterator[str]:
    if KEY.search(HUMP.sub("_", key)) and not NO_VALUE.fullmatch(text):
        yield "a value under the name of a secret"
    for form, pattern in FORMS.items():
        if pattern.search(text):
            yield form
    if any(not NO_VALUE.fullmatch(value) for _, value in PAIR.findall(text)):
        yield "a secret with its name"
    if any(_is_card(match) for match in CARD.findall(text)):
        yield "the number of a card"
    if any(_is_account(match) for match in ACCOUNT.findall(text)):
        yield "the number of a bank account"


def _is_card(text: str) -> bool:
    # Issuers begin with 2221 to 2720 and 3 to 6 (ISO/IEC 7812): ids that begin with a time do not.
    digits = [int(each) for each in text if each.isdigit()]
    number = "".join(map(str, digits))
    if not ("3" <= number[0] <= "6" or "2221" <= number[:4] <= "2720"):
        return False
    doubled = [digit if place % 2 == 0 else sum(divmod(2 * digit, 10)) for place, digit in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0


def _is_account(text: str) -> bool:
    # IBAN, ISO 13616: the remainder distinguishes it from other words of letters and digits.
    plain = text.replace(" ", "")
    turned = plain[4:] + plain[:4]
    return int("".join(str(int(each, 36)) for each in turned)) % 97 == 1
