"""The security pack: authentication, threats and audits."""
