"""Shapes of secrets, each with the source that it is known from: keys that providers issue, and data that errors quote.

The sets of rules on the package index are made to scan files: they are large, or slow, or need the network. What is here are
facts of such rules, written so that each expression looks at a character once, and is passed over where its first letters
are missing: these are always plain ones.
"""

import re
from typing import NamedTuple


class KeyRule(NamedTuple):
    """Keys of one kind."""

    prefixes: str
    """How they begin, with spaces between."""
    rest: str
    """An expression for what follows to the end; possessive, so that what was looked at is not looked at again."""
    source: str
    """Rules of gitleaks, or the provider's documentation."""


class QuotedRule(NamedTuple):
    """Texts in which a library quotes data."""

    before: tuple[str, ...]
    """Expressions for what announces the data."""
    data: str
    """An expression for the data, rather too much than too little."""
    source: str
    """The library."""


KEY_RULES = (
    KeyRule("AKIA ASIA ABIA ACCA", "[A-Z0-9]{16}(?![A-Za-z0-9])", "gitleaks: aws-access-token"),
    KeyRule("ABSK", "[A-Za-z0-9+/]{100,}+=*+", "gitleaks: aws-amazon-bedrock-api-key-long-lived"),
    KeyRule("ghp_ gho_ ghu_ ghs_ ghr_", "[A-Za-z0-9]{30,}+", "gitleaks: github-pat, github-oauth, github-app-token"),
    KeyRule("github_pat_", "[A-Za-z0-9_]{36,}+", "gitleaks: github-fine-grained-pat"),
    KeyRule("glpat- glptt- gldt- glrt- glcbt- gloas- glft- glimt-", "[A-Za-z0-9_.-]{20,}+", "gitleaks: gitlab-pat and others"),
    KeyRule("xoxb- xoxp- xoxa- xoxr- xoxs- xoxo- xoxe- xapp-", "[A-Za-z0-9_.-]{10,}+", "gitleaks: slack-bot-token and others"),
    KeyRule("hooks.slack.com/", "[a-z]{1,16}+/[A-Za-z0-9+/]{20,}+", "gitleaks: slack-webhook-url"),
    KeyRule("/api/webhooks/", "[0-9]{15,20}+/[A-Za-z0-9_-]{40,}+", "discord.com/developers: webhooks"),
    KeyRule("sk_live_ sk_test_ rk_live_ rk_test_", "[A-Za-z0-9]{10,}+", "gitleaks: stripe-access-token"),
    KeyRule("whsec_", "[A-Za-z0-9+/]{24,}+=*+", "docs.stripe.com: secrets of webhooks"),
    KeyRule("AIza", "[A-Za-z0-9_-]{35,}+", "gitleaks: gcp-api-key"),
    KeyRule("GOCSPX- ya29.", "[A-Za-z0-9._-]{20,}+", "developers.google.com/identity: client secrets, access tokens"),
    KeyRule(
        "sk-proj- sk-svcacct- sk-admin- sk-ant- sk-or-", "[A-Za-z0-9_-]{20,}+", "gitleaks: openai-api-key, anthropic-api-key"
    ),
    KeyRule("sk-", "[A-Za-z0-9]{32,}+", "gitleaks: openai-api-key"),
    KeyRule("hf_", "[A-Za-z0-9]{30,}+", "gitleaks: huggingface-access-token"),
    KeyRule("npm_", "[A-Za-z0-9]{36,}+", "gitleaks: npm-access-token"),
    KeyRule("pypi-AgE", "[A-Za-z0-9_-]{50,}+", "gitleaks: pypi-upload-token"),
    KeyRule("SG.", "[A-Za-z0-9_-]{16,}+\\.[A-Za-z0-9_-]{16,}+", "gitleaks: sendgrid-api-token"),
    KeyRule("dop_v1_ doo_v1_ dor_v1_", "[a-f0-9]{64}", "gitleaks: digitalocean-pat and others"),
    KeyRule("dapi", "[a-f0-9]{32}(?:-[0-9])?+", "gitleaks: databricks-api-token"),
    KeyRule("dckr_pat_", "[A-Za-z0-9_-]{20,}+", "docs.docker.com: access tokens"),
    KeyRule("hvs. hvb.", "[A-Za-z0-9_-]{24,}+", "gitleaks: vault-service-token, vault-batch-token"),
    KeyRule("glsa_", "[A-Za-z0-9]{32}_[A-Fa-f0-9]{8}", "gitleaks: grafana-service-account-token"),
    KeyRule("shpat_ shpca_ shppa_ shpss_", "[a-fA-F0-9]{32}", "gitleaks: shopify-access-token and others"),
    KeyRule("sntryu_", "[a-f0-9]{64}", "gitleaks: sentry-user-token"),
    KeyRule("PMAK-", "[a-f0-9]{24}-[a-f0-9]{34}", "gitleaks: postman-api-token"),
    KeyRule("AGE-SECRET-KEY-1", "[A-Z0-9]{58}", "gitleaks: age-secret-key"),
    KeyRule("Q~", "[A-Za-z0-9_~.-]{31,}+", "gitleaks: azure-ad-client-secret, but for its beginning"),
    KeyRule("/bot", "[0-9]{5,16}+:A[A-Za-z0-9_-]{30,}+", "gitleaks: telegram-bot-api-token"),
)
_BEGINNING = ("(?<![A-Za-z0-9]{0})", "(?<=%[0-9A-Fa-f][0-9A-Fa-f]{0})", "(?<=\\\\[nrt]{0})", "(?<=[\\[;0-9][0-9]m{0})")
"""Before a prefix stands no letter, or `%3D`, or `\\n` as two characters, or the colour of a terminal."""


def _key(prefix: str, rest: str) -> str:
    literal = re.escape(prefix)
    # Looked at behind the prefix, so that texts without it are passed over at once.
    begins = f"(?:{'|'.join(_BEGINNING).replace('{0}', literal)})" if prefix[:2].isalpha() else ""
    return literal + begins + rest


KEYS = re.compile("|".join(_key(prefix, rest) for prefixes, rest, _ in KEY_RULES for prefix in prefixes.split()))
JWT = re.compile(_key("eyJ", r"[\w=-]{6,}+((?:\.|%2[Ee])[\w=-]*+)*+"))
"""JSON web tokens, also cut ones; only those with a first group are. Without it the rest of the word needs no second look."""
PRIVATE_KEY = re.compile(
    r"-----BEGIN(?:[ +]|%20)[A-Z0-9 +%]{0,40}PRIVATE(?:[ +]|%20)KEY[A-Z0-9 +%]{0,10}-----"
    r".*?(?:-----END(?:[ +]|%20)[A-Z0-9 +%]{0,40}PRIVATE(?:[ +]|%20)KEY[A-Z0-9 +%]{0,10}-----|\Z)",
    re.DOTALL,
)
"""Of PEM, OpenSSH and PGP; one without an end goes on to the end of the text."""

_ROW = r"[^\r\n]*+"
_DETAIL = r"(?:(?!\n(?:HINT|CONTEXT|WHERE|QUERY|STATEMENT|LOCATION|LINE |\[SQL|\[parameters|\(Background|\n))[\s\S])*+"
_QUOTED_INPUT = r"(?:(?!['\"](?:loc|input)['\"]:)[^\r\n])*+['\"]input['\"]: ?"
_QUOTED_RULES = (
    QuotedRule(("input_value=",), _ROW, "pydantic"),
    QuotedRule(("Value error, ", "Assertion failed, "), r"(?:(?! \[type=)[^\r\n])*+", "pydantic: messages of validators"),
    QuotedRule((f"'loc': {_QUOTED_INPUT}", f'"loc": ?{_QUOTED_INPUT}'), _ROW, "fastapi; errors() of pydantic"),
    QuotedRule(("Input tag '",), _ROW, "pydantic: discriminated unions"),
    QuotedRule((r"\[parameters: ",), _ROW, "sqlalchemy"),
    QuotedRule((r"\[SQL: [^']{0,1000}+'",), r"(?:(?!\]\r?\n|\]\Z)[\s\S])*+", "sqlalchemy: literals of a statement"),
    QuotedRule(
        tuple(
            rf"\[{note}[^\]\r\n]{{0,80}}\] " for note in ("generated in", "cached since", "no key", "caching dis", "raw sql")
        ),
        _ROW,
        "sqlalchemy: echo",
    ),
    QuotedRule((r"\)=\(", r"Failing row contains \("), _DETAIL, "PostgreSQL: integrity, the first in any language"),
    QuotedRule(("DETAIL:  ", "CONTEXT:  ", "LINE [0-9]{1,9}: "), _DETAIL, "PostgreSQL"),
    QuotedRule((r"invalid input (?:syntax|value) for [^:\r\n]{1,128}: ", "value out of range: "), _DETAIL, "PostgreSQL: data"),
    QuotedRule(("syntax error at or near ",), _DETAIL, "PostgreSQL: a piece of the statement"),
    QuotedRule((r"""value "(?=[^"\r\n]*+" is out of range)""",), r"""[^"\r\n]*+""", "PostgreSQL: data"),
    QuotedRule((r"invalid input for query argument \$[0-9]{1,5}[^:\r\n]{0,64}: ",), _ROW, "asyncpg"),
    QuotedRule(("Duplicate entry '", r"ncorrect [\w ]{1,32} value: '"), _ROW, "MySQL"),
    QuotedRule((r"duplicate key value is \(", r"converting the [\w ]{1,32} value '"), _ROW, "SQL Server"),
    QuotedRule((r"row with column values \(",), _ROW, "Oracle"),
    QuotedRule(("dup key: ",), _ROW, "MongoDB"),
    QuotedRule((r"On instance[^:\r\n]{0,256}:\s",), r"[\s\S]*+", "jsonschema"),
)
QUOTED = re.compile("|".join(f"{before}(){data}" for befores, data, _ in _QUOTED_RULES for before in befores))
"""The group that took part, an empty one, is where the data begins."""
