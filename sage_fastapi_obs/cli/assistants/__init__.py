"""What assistants ask of a service, and how they are answered: in bounded size, without secrets, marked as data."""
