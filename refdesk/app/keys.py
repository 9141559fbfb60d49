"""API keys: shown once, kept as a hash. As soon as one exists, every request under /v1 needs one."""

import hashlib
import secrets
import time
import uuid
from dataclasses import dataclass

from sqlalchemy import Engine, delete, func, insert, select
from sqlalchemy.exc import IntegrityError

from refdesk import schema
from refdesk.database import transaction

# What a key may do: `read` asks and looks, `admin` also changes what is stored.
SCOPES = ("read", "admin")


class InvalidKey(Exception):
    """A key that cannot be made, or does not exist."""


@dataclass(frozen=True)
class ApiKey:
    """A key without its secret."""

    name: str
    scope: str
    created_at: float


def add_key(engine: Engine, name: str, scope: str) -> str:
    """Make a key and return its secret, which is nowhere kept. Raises InvalidKey."""
    if not name.strip() or len(name) > 64:
        raise InvalidKey(f"key name {name!r}: expected 1 to 64 characters")
    if scope not in SCOPES:
        raise InvalidKey(f"scope {scope!r}: expected one of {', '.join(SCOPES)}")
    secret = f"refdesk_{secrets.token_urlsafe(32)}"
    try:
        with transaction(engine) as connection:
            connection.execute(
                insert(schema.api_key).values(
                    id=uuid.uuid4().hex,
                    name=name,
                    sha256=_digest(secret),
                    scope=scope,
                    created_at=time.time(),
                )
            )
    except IntegrityError:
        raise InvalidKey(f"a key named {name!r} exists already") from None
    return secret


def remove_key(engine: Engine, name: str) -> None:
    """Raises InvalidKey when there is none of this name."""
    with transaction(engine) as connection:
        removed = connection.execute(delete(schema.api_key).where(schema.api_key.c.name == name)).rowcount
    if not removed:
        raise InvalidKey(f"no key is named {name!r}")


def list_keys(engine: Engine) -> list[ApiKey]:
    """Every key by name."""
    key = schema.api_key.c
    with engine.connect() as connection:
        rows = connection.execute(select(key.name, key.scope, key.created_at).order_by(key.name))
        return [ApiKey(*row) for row in rows]


def any_key(engine: Engine) -> bool:
    """Whether requests need a key."""
    with engine.connect() as connection:
        return bool(connection.execute(select(func.count()).select_from(schema.api_key)).scalar_one())


def scope_of(engine: Engine, secret: str) -> str | None:
    """The scope of a secret, None for one that is not a key. High-entropy secrets need no slow hash."""
    key = schema.api_key.c
    with engine.connect() as connection:
        scope = connection.execute(select(key.scope).where(key.sha256 == _digest(secret))).scalar_one_or_none()
    return None if scope is None else str(scope)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
