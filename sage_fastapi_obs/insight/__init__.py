"""Why a request was slow or refused: one observer for each cause."""
