"""Logins: passwords, tokens that end, locks against guessing, and a limit on how often."""

import hashlib
import hmac
import os
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Annotated

from fastapi import APIRouter, Body, Depends, Header, HTTPException, Request
from pydantic import BaseModel, Field

from sage_fastapi_obs import RequestLogger
from sage_fastapi_obs.packs.business import set_business_active_users
from sage_fastapi_obs.packs.security import login_failed, rate_limit_exceeded, security_event
from sage_fastapi_obs.packs.textbook import set_active_users

__all__ = ["Accounts", "LoginFailed", "RateLimit", "User", "api", "looks_like_injection"]

api = APIRouter(tags=["accounts"])
TRIES = 5
LOCK_SECONDS = 10.0
TOKEN_SECONDS = 60.0
MOST_TOKENS = 1_000
MOST_CLIENTS = 1_000
_INJECTION = re.compile(r"['\";]|--|\bunion\b|\bdrop\b", re.IGNORECASE)


def looks_like_injection(name: str) -> bool:
    """Tell whether a name is rather a piece of SQL."""
    return _INJECTION.search(name) is not None


class LoginFailed(Exception):
    """`reason` is one of bad_password, unknown_user, locked, expired_token."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True)
class User:
    id: int
    name: str
    salt: bytes
    digest: bytes
    failed: int = 0
    locked_until: float = 0.0


class Accounts:
    """A few users; safe to ask from several threads."""

    def __init__(self, passwords: dict[str, str], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        self._by_name: dict[str, User] = {}
        self._tokens: OrderedDict[str, tuple[User, float]] = OrderedDict()
        for number, (name, password) in enumerate(passwords.items(), 1):
            salt = os.urandom(16)
            self._by_name[name] = User(number, name, salt, _digest(password, salt))
        self.by_id = {user.id: user for user in self._by_name.values()}

    def login(self, name: str, password: str) -> tuple[User, str]:
        """Check a password and give out a token; `LoginFailed` if that cannot be."""
        user = self._by_name.get(name)
        if user is None:
            raise LoginFailed("unknown_user")
        if user.locked_until > self._clock():
            raise LoginFailed("locked")
        good = hmac.compare_digest(_digest(password, user.salt), user.digest)
        with self._lock:
            user.failed = 0 if good else user.failed + 1
            if user.failed >= TRIES:
                user.failed, user.locked_until = 0, self._clock() + LOCK_SECONDS
            if not good:
                raise LoginFailed("bad_password")
            token = secrets.token_urlsafe(24)
            self._tokens[token] = (user, self._clock() + TOKEN_SECONDS)
            while len(self._tokens) > MOST_TOKENS:
                self._tokens.popitem(last=False)
        return user, token

    def user_of(self, token: str) -> User:
        """Find whose token this is; `LoginFailed` if its time is over, `LookupError` if there is no such token."""
        user, until = self._tokens[token]
        if until <= self._clock():
            raise LoginFailed("expired_token")
        return user

    def active(self) -> int:
        """Count the users with a token that is still good."""
        now = self._clock()
        with self._lock:
            return len({user.id for user, until in self._tokens.values() if until > now})


def _digest(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=2**12, r=8, p=1)


class RateLimit:
    """So many at once, and so many a second, of each client; safe to ask from several threads."""

    def __init__(self, burst: float, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst = burst
        self._per_second = per_second
        self._clock = clock
        self._lock = Lock()
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allows(self, client: str) -> bool:
        """Take one of what a client has left."""
        with self._lock:
            now = self._clock()
            left, at = self._left.pop(client, (self._burst, now))
            left = min(self._burst, left + (now - at) * self._per_second)
            self._left[client] = (left - 1 if left >= 1 else left, now)
            while len(self._left) > MOST_CLIENTS:
                self._left.popitem(last=False)
            return left >= 1


class Credentials(BaseModel):
    name: str = Field(max_length=100)
    password: str = Field(max_length=100)


class Token(BaseModel):
    user_id: int
    token: str


class About(BaseModel):
    user_id: int
    name: str


def _accounts(request: Request) -> Accounts:
    accounts: Accounts = request.app.state.accounts
    return accounts


TheAccounts = Annotated[Accounts, Depends(_accounts)]


@api.post("/login")
def login(given: Credentials, request: Request, accounts: TheAccounts, log: RequestLogger) -> Token:
    """Exchange a password for a token."""
    client = request.client.host if request.client else ""
    if not request.app.state.login_limit.allows(client):
        rate_limit_exceeded(client)
        security_event("rate_limit")
        raise HTTPException(429, "too many logins", {"Retry-After": "1"})
    if looks_like_injection(given.name):
        security_event("injection_attempt")
        raise HTTPException(422, "that is no name")
    try:
        user, token = accounts.login(given.name, given.password)
    except LoginFailed as failed:
        login_failed(failed.reason)
        log.warning("login failed", reason=failed.reason)
        raise HTTPException(401, "wrong name or password") from None
    log.bind(user_id=user.id)
    set_active_users(accounts.active())
    set_business_active_users(accounts.active())
    return Token(user_id=user.id, token=token)


async def known_user(accounts: TheAccounts, authorization: Annotated[str, Header(max_length=200)] = "") -> User:
    """Find out who asks."""
    try:
        return accounts.user_of(authorization.removeprefix("Bearer "))
    except LoginFailed as failed:
        login_failed(failed.reason)
        raise HTTPException(401, "the token has expired", {"WWW-Authenticate": "Bearer"}) from None
    except LookupError:
        security_event("unauthorized_access")
        raise HTTPException(401, "log in first", {"WWW-Authenticate": "Bearer"}) from None


KnownUser = Annotated[User, Depends(known_user)]


@api.get("/users/{user_id}")
async def read_user(user_id: int, user: KnownUser) -> About:
    """Read the own account."""
    if user.id != user_id:
        security_event("unauthorized_access")
        raise HTTPException(403, "somebody else's account")
    return About(user_id=user.id, name=user.name)


@api.post("/users/batch", dependencies=[Depends(known_user)])
async def read_users(user_ids: Annotated[list[int], Body(max_length=100)], accounts: TheAccounts) -> list[About | None]:
    """Read the names of several accounts; null for those that do not exist."""
    found = (accounts.by_id.get(user_id) for user_id in user_ids)
    return [None if each is None else About(user_id=each.id, name=each.name) for each in found]
