"""The SAGE pack: handshakes, sessions and cryptography of a secure messaging back end."""
