-- Errors since a day. `day` keeps Athena from reading (and charging for) older files.
SELECT "timestamp", "level", "message"
FROM tastesync_logs.customer_id
WHERE "level" = 'error'
  AND "day" >= '2025/03/01'
  AND from_iso8601_timestamp("timestamp") >= TIMESTAMP '2025-03-01 00:00:00 UTC'
ORDER BY "timestamp" DESC
LIMIT 100;
