"""`instrument_kafka` and `process_message`: messages to and from Kafka."""

from typing import TypeVar

from sage_fastapi_obs.clients.kafka.messages import process_message
from sage_fastapi_obs.clients.patching import Instrumented, instrument_by_library

__all__ = ["instrument_kafka", "process_message"]

Client = TypeVar("Client")
_MODULES = {"aiokafka": "kafka.aiokafka", "confluent_kafka": "kafka.confluent", "cimpl": "kafka.confluent"}
_TAKES = "a producer or a consumer of aiokafka or confluent_kafka (pip install 'sage_fastapi_obs[kafka]')"


def instrument_kafka(client: Client) -> Instrumented[Client]:
    """Watch a producer or a consumer of aiokafka, or a `Producer` or `Consumer` of confluent-kafka.

    Each message that is sent is a span from the call until the broker's acknowledgement, counts in
    `kafka_messages_produced_total` and `kafka_produce_latency_seconds`, and carries trace context and correlation id in its
    headers. What is received counts in `kafka_messages_consumed_total`; see `process_message` for what is done with it. Keys
    and values are not recorded.

    Clients of confluent-kafka are written in C and cannot be changed: use the `client` of what is returned in their place.
    """
    return instrument_by_library(client, _MODULES, "instrument_kafka", _TAKES)
