-- Routes whose requests took more than a second on average in the last hour, the slowest p95 first. As in the metrics, streams and
-- WebSockets do not count: they last as long as somebody listens. Only the line of a request has a status.
SELECT
  "route",
  count(*) AS requests,
  round(avg("duration_ms"), 1) AS mean_ms,
  round(approx_percentile("duration_ms", 0.95), 1) AS p95_ms,
  max("duration_ms") AS max_ms
FROM tastesync_logs.customer_id
WHERE "day" >= date_format(current_timestamp - INTERVAL '1' HOUR, '%Y/%m/%d')
  AND from_iso8601_timestamp("timestamp") >= current_timestamp - INTERVAL '1' HOUR
  AND "status" IS NOT NULL
  AND "first_byte_ms" IS NULL
  AND "message" NOT LIKE 'websocket %'
GROUP BY "route"
HAVING avg("duration_ms") > 1000
ORDER BY p95_ms DESC;
