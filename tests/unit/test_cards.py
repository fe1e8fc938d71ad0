"""Texts that could be a card number are distinguished from tokens."""

import re
from collections.abc import Callable
from uuid import uuid4

import pytest

from services.gateway.api import OrderRequest
from services.gateway.cards import refuse_card_number

NUMBERS = {
    "Visa": "4111111111111111",
    "an old Visa": "4222222222222",
    "Mastercard": "5555555555554444",
    "American Express": "378282246310005",
    "Maestro, of 19 digits": "6304000000000000018",
    "UnionPay": "6200000000000005",
}

FULL_WIDTH = str.maketrans("0123456789", "".join(chr(0xFF10 + digit) for digit in range(10)))


@pytest.mark.parametrize("number", NUMBERS.values(), ids=NUMBERS)
@pytest.mark.parametrize("around", ["{}", "tok_{}", "visa{}", "card={};cvc=123", "{}|12/29"])
def test_a_number_is_refused_and_not_repeated(number: str, around: str) -> None:
    with pytest.raises(ValueError, match="the number of a card") as refusal:
        refuse_card_number(around.format(number))
    assert number not in str(refusal.value)


@pytest.mark.parametrize(
    "number",
    [
        "4111-1111-1111-1111",
        "4111.1111.1111.1111",
        "4111-1111 1111-1111",
        "4111  1111  1111  1111",
        "3782-822463-10005",
        "3782 822463-10005",
    ],
)
def test_a_number_in_groups_is_refused(number: str) -> None:
    with pytest.raises(ValueError, match="the number of a card"):
        refuse_card_number(number)


@pytest.mark.parametrize(
    "form",
    [
        lambda number: " ".join(number),
        lambda number: "[" + ",".join(number) + "]",
        lambda number: '["' + '", "'.join(number) + '"]',
        lambda number: "x".join(number),
        lambda number: "%20".join(re.findall("....", number)),
        lambda number: "%2D".join(number),
        lambda number: "+".join(re.findall("....", number)),
        lambda number: "%34" + number[1:],
        lambda number: "-".join(re.findall("..", number)),
        lambda number: "xy".join(re.findall("..", number)),
        lambda number: "-".join(re.findall(".{1,3}", number)),
    ],
)
def test_a_number_in_pieces_is_refused(form: Callable[[str], str]) -> None:
    with pytest.raises(ValueError, match="the number of a card"):
        refuse_card_number(form("4111111111111111"))


@pytest.mark.parametrize("between", ["\u200b", "\u00a0", "\u2007", ""])
def test_no_other_digits_and_no_hidden_characters_are_taken(between: str) -> None:
    number = between.join("4111111111111111") if between else "4111111111111111".translate(FULL_WIDTH)
    with pytest.raises(ValueError, match="payment_token") as refusal:
        OrderRequest.model_validate({"items": [{"sku": "TEA-EARL-GREY", "quantity": 1}], "payment_token": number})
    assert {each["type"] for each in refusal.value.errors()} == {"string_pattern_mismatch"}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "token",
    [
        "tok_visa",
        "tok_declined",
        "4111111111111112",
        "411111111111",
        "41111111111111111111111",
        "8d3f1c9e41111111111111118d3f1c9e",
        "tok_1N3T00LkdIwHu7ixt44h1F8k",
        "pm-2026-11-27T18:40:12.123456Z",
        "a1b2c3d4e5f6",
    ],
)
def test_a_token_is_taken(token: str) -> None:
    assert refuse_card_number(token) == token


def test_random_tokens_are_taken() -> None:
    for token in (form for uuid in (uuid4() for _ in range(20_000)) for form in (str(uuid), uuid.hex)):
        # One digit in ten passes the check.
        if re.search("[a-f]", token):
            assert refuse_card_number(token) == token
