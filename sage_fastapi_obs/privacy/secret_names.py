"""Names whose values are secrets: passwords, tokens, keys, cookies and cards, however they are spelt."""

import re

_CONVENTIONAL = (
    *("x-amz-signature", "x-amz-credential", "x-amz-security-token", "awsaccesskeyid", "signature", "sig"),
    "x-goog-signature",
)
"""Query parameters whose values are hidden, says OpenTelemetry's convention for `url.query`."""
_NAMES = frozenset(
    {
        *("auth", "basicauth", "httpauth", "proxyauth", "session", "bearer", "cookies", "tokens", "pem", "csrf", "xsrf"),
        *("phpsessid", "jsessionid", "connectsid", "aspnetsessionid", "awsaccesskeyid", "creditcard", "cardnumber"),
    }
)
"""Hidden as whole names; shorter ones, such as `key` and `code`, name harmless things too often."""
_WORDS = frozenset({"pass", "creds", "otp", "totp", "ssn", "cvv", "cvc", "mnemonic"})
"""Hidden as last words: `db_pass` and `dbPass`, but neither `bypass` nor `pass_count`."""
_ENDINGS = (
    *("token", "secret", "secrets", "pwd", "authorization", "cookie", "jwt", "dbpass", "userpass", "pgpass"),
    *("accesstokens", "refreshtokens", "authtokens", "apitokens", "sessiontokens", "seedphrase", "recoveryphrase"),
    *("accesskey", "accountkey", "encryptionkey", "decryptionkey", "encryptkey", "signingkey", "masterkey", "sharedkey"),
    *("symmetrickey", "sessionkey", "authkey", "sshkey", "hmackey", "aeskey", "fernetkey", "cipherkey"),
    *("licensekey", "deploykey"),
    *("passcode", "otpcode", "mfacode", "authcode", "authorizationcode", "verificationcode", "recoverycodes", "backupcodes"),
)
"""Hidden by how names end: `csrf_token`, but not `token_count`; `encryption_key`, but not `primary_key`."""
_PARTS = ("password", "passwd", "passphrase", "apikey", "privatekey", "secretkey", "credential")
"""Hidden wherever they are in a name."""
_QUALIFIERS = frozenset(
    {"value", "values", "string", "header", "raw", "plain", "plaintext", "base", "b", "hex", "encoded", "encrypted"}
)
"""Last words that say how the same thing is given: `token_value`, `auth_header`, `password_base64`."""
QUOTING = frozenset(
    {"input", "inputvalue", "inputdata", "value", "values", "params", "parameters", "instance", "body", "payload"}
)
"""In texts of exceptions, and only there, also what these announce is hidden: it is data that the exception is about."""
_PHRASES = ("pass", "pwd", "phrase", "secret", "mnemonic")
_WHOLE_ROW = ("authorization", "cookie", "cookies", "authheader")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\dA-Za-z_]+")


def letters(name: str) -> str:
    """Reduce a name to what all its spellings share: `api_key`, `api-key`, `apiKey`, `api_key[]`."""
    return "".join(filter(str.isalnum, name.lower()))


PARAMETERS = frozenset({*map(letters, _CONVENTIONAL), "key", "code"})
"""Query parameters that are hidden besides all these names."""


def _without_qualifiers(name: str) -> list[str]:
    """List the words of a name, in small letters, up to the one that says what it is."""
    words = [word.lower() for word in _WORD.findall(name)]
    while len(words) > 1 and words[-1] in _QUALIFIERS:
        words.pop()
    return words


def is_secret(name: str) -> bool:
    """Tell whether a name is one of a secret."""
    whole = letters(name)
    # As Django calls its cookie; spelt in two words it is an id that may be shown.
    if whole in _NAMES or name == "sessionid" or any(part in whole for part in _PARTS):
        return True
    words = _without_qualifiers(name)
    unqualified = "".join(words)
    return (
        whole.endswith(_ENDINGS)
        or unqualified in _NAMES
        or unqualified.endswith(_ENDINGS)
        or bool(words and words[-1] in _WORDS)
    )


def may_have_spaces(name: str) -> bool:
    """Tell whether what has this name may be several words."""
    whole = letters(name)
    return any(part in whole for part in _PHRASES)


def takes_whole_row(name: str) -> bool:
    """Tell whether this is a header whose value has parts of its own."""
    return letters(name).endswith(_WHOLE_ROW)
