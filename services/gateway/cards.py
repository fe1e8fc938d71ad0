"""Refuse card numbers: https://www.pcisecuritystandards.org/ has strict rules for anyone who stores them."""

import re
from urllib.parse import unquote

_NUMBERS = re.compile(
    r"""(?<!\d)                                      # From 13 to 19 digits, ISO/IEC 7812-1:
        (?: \d{13,19}                                # as they are,
          | (?:\d{4}[^0-9A-Za-z]{1,2}){3}\d{1,7}     # or in the groups that are printed on cards.
          | \d{4}[^0-9A-Za-z]{1,2}\d{6}[^0-9A-Za-z]{1,2}\d{4,5}
          | \d(?:\D{1,4}\d){12,18}                   # Each digit by itself, or two and two, with anything between.
          | \d\d(?:\D{1,4}\d\d){6,8}
          | \d{3}(?:[^0-9A-Za-z]{1,2}\d{3}){4}(?:[^0-9A-Za-z]{1,2}\d{1,3})?
        )(?!\d)""",
    re.VERBOSE,
)
_RANDOM = re.compile(r"(?=\d*[a-f])[0-9a-f]{21,}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
"""UUIDs, and more hexadecimal digits than a number has. By chance, many in a row may be decimal."""


def refuse_card_number(token: str) -> str:
    """Return a payment token. Raises ValueError, without the token, if it may contain a card number."""
    # `%20` stands for a space, and itself has digits.
    texts = {_RANDOM.sub("", text) for text in (token, unquote(token), unquote(token).replace("+", " "))}
    if any(_passes(re.sub(r"\D", "", match[0])) for text in texts for match in _NUMBERS.finditer(text)):
        raise ValueError("this passes for the number of a card: send a token that stands for it")
    return token


def _passes(digits: str) -> bool:
    """Return whether the last digit is the check digit of the others, ISO/IEC 7812-1, annex B (Luhn)."""
    doubled = [int(digit) * 2 for digit in digits[-2::-2]]
    total = sum(map(int, digits[::-2])) + sum(number - 9 if number > 9 else number for number in doubled)
    return total % 10 == 0
