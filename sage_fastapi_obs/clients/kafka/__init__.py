"""Messages to and from Kafka."""

from sage_fastapi_obs.clients.kafka.messages import instrument_kafka, process_message

__all__ = ["instrument_kafka", "process_message"]
