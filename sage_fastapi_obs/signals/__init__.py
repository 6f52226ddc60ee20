"""What is recorded: a recorder per signal, and the state it owns."""
