"""Messages that were put aside: list them, send them back to the stream, or drop them.

python -m services.fulfilment.dead_letters list
python -m services.fulfilment.dead_letters replay 1767225600000-0
python -m services.fulfilment.dead_letters drop all
"""

from collections.abc import Sequence
from typing import Any

import click
import redis
from pydantic import ValidationError

from chassis import cache
from chassis.settings import ServiceSettings, ValkeyUrl
from services.fulfilment.queue import DEAD_LETTERS, LETTER_FIELDS, STREAM, OrderCompleted

ALL = "all"


class Settings(ServiceSettings):
    """Environment variables: VALKEY_URL."""

    valkey_url: ValkeyUrl


class Unknown(Exception):
    """There is no letter with this id."""


def letters(stream: redis.Redis, ids: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
    """Return the letters with these ids, or `all` of them. Raises Unknown."""
    if ALL in ids:
        answer: Any = stream.xrange(DEAD_LETTERS)
        return list(answer)
    found = []
    for letter_id in ids:
        try:
            answer = stream.xrange(DEAD_LETTERS, letter_id, letter_id)
        except redis.ResponseError:
            answer = []
        if not answer:
            raise Unknown(letter_id)
        found += answer
    return found


def replay(stream: redis.Redis, letter_id: str, letter: dict[str, str]) -> None:
    """Send a message back to the stream as it was, and delete the letter."""
    message: dict[Any, Any] = {name: value for name, value in letter.items() if name not in LETTER_FIELDS}
    with stream.pipeline() as pipeline:
        pipeline.xadd(STREAM, message)
        pipeline.xdel(DEAD_LETTERS, letter_id)
        pipeline.execute()


def drop(stream: redis.Redis, letter_id: str) -> None:
    """Delete a letter."""
    stream.xdel(DEAD_LETTERS, letter_id)


def describe(letter_id: str, letter: dict[str, str]) -> str:
    """Return a letter as one line."""
    try:
        order = str(OrderCompleted.model_validate_json(letter.get("payload", "")).order_id)
    except ValidationError:
        order = "unreadable"
    error, deliveries, trace_id = (letter.get(name, "?") for name in LETTER_FIELDS)
    return f"{letter_id}  order {order}  {error}  {deliveries} deliveries  trace {trace_id}"


@click.command()
@click.argument("action", type=click.Choice(["list", "replay", "drop"]), default="list")
@click.argument("ids", nargs=-1)
def main(action: str, ids: tuple[str, ...]) -> None:
    """List the messages that fulfilment put aside, send them back (replay), or drop them.

    IDS are ids from the list, or the word "all".
    """
    if action == "list":
        ids = (ALL,)
    elif not ids:
        raise click.UsageError(f'say which messages to {action}: their ids from the list, or "{ALL}".')
    settings = Settings.read()
    stream = cache.connect(settings.valkey_url.get_secret_value(), settings.request_deadline)
    try:
        chosen = letters(stream, ids)
        for letter_id, letter in chosen:
            if action == "replay":
                replay(stream, letter_id, letter)
            elif action == "drop":
                drop(stream, letter_id)
            click.echo(describe(letter_id, letter))
    except Unknown as error:
        raise click.ClickException(f"there is no message {error} among those that were put aside.") from error
    except redis.ConnectionError as error:
        raise click.ClickException("Valkey does not answer.") from error
    done = {"list": "put aside", "replay": "sent back", "drop": "dropped"}[action]
    click.echo(f"{len(chosen)} {'message was' if len(chosen) == 1 else 'messages were'} {done}.")


if __name__ == "__main__":
    main(prog_name="python -m services.fulfilment.dead_letters")
