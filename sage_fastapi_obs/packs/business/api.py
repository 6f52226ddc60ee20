"""The metrics of the pack `business`: orders, their value, and who is there."""

from sage_fastapi_obs.operations.count import count, observe, set_gauge

__all__ = ["order_processed", "set_business_active_users", "transaction_completed"]


def order_processed(value: float, category: str | None = None) -> None:
    """Count an order that was processed, with its value in units of the currency."""
    count("orders_processed_total")
    count("revenue_total", by=value)
    observe("order_value", value)
    if category is not None:
        count("orders_by_category_total", category)


def transaction_completed(n: int = 1) -> None:
    """Count transactions."""
    count("business_transactions_total", by=n)


def set_business_active_users(n: int) -> None:
    """Tell how many users are active now."""
    set_gauge("business_active_users", n)
