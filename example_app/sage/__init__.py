"""Agents that know each other by DID, shake hands, and talk in sessions of limited life."""
