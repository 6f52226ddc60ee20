"""Names that were importable from the root of the package, and where they are now."""

_FOLDERS = {
    "clients.grpc": "GrpcMetricsInterceptor",
    "clients.httpx": "instrument_httpx",
    "clients.kafka": "instrument_kafka process_message",
    "clients.patching": "Instrumented",
    "clients.postgres": "instrument_postgres",
    "clients.redis": "instrument_redis",
    "clients.track": "track_dependency",
    "logs.application_fields": (
        "FIELD_CLIENT_DID FIELD_CORRELATION_ID FIELD_EVENT_ID FIELD_KEY_TYPE FIELD_OPERATION FIELD_REQUEST_ID "
        "FIELD_SERVER_DID FIELD_SESSION_ID FIELD_SPAN_ID FIELD_TRACE_ID"
    ),
    "logs.recent_lines": "LogEntry LogError",
    "monitoring": (
        "SLA_TARGETS Alert AlertCondition AlertRule LogLevel LoggingMonoResult MetricType activate_circuit_breaker "
        "calculate_failure_rate check_sla_compliance circuit_breaker_monitoring collect_flux_result_metric collect_metric "
        "collect_result_metric configure_result_logging create_alert_rule create_logging_mono evaluate_alerts "
        "find_slow_operations get_dashboard_data get_memory_usage get_metrics_summary log_result_operation notifiers "
        "performance_tracker query_logs_by_correlation_id remove_alert_rule reset_circuit_breaker reset_monitoring "
        "setup_default_alerts start_monitoring stop_monitoring"
    ),
    "packs.business": "order_processed set_business_active_users transaction_completed",
    "packs.result": "Failure FluxResult MonoResult Result Success",
    "packs.sage": (
        "observe_crypto observe_did_resolution observe_handshake observe_message observe_session_operation "
        "record_blockchain_transaction record_did_registration record_nonce record_replay_attack session_closed "
        "sessions_expired span_encryption span_handshake span_signature trace_decryption trace_did_resolution "
        "trace_encryption trace_handshake trace_handshake_verification trace_key_derivation trace_key_generation "
        "trace_request trace_session_create trace_signature trace_signature_verification"
    ),
    "packs.security": "login_failed rate_limit_exceeded security_event",
    "packs.textbook": "ai_tokens_used learning_session set_active_users textbook_created",
}
MOVED = {name: f"sage_fastapi_obs.{folder}" for folder, names in _FOLDERS.items() for name in names.split()}
"""Module by name. Each still works at the root for one release, with a `DeprecationWarning`."""
